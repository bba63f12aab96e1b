"""The child's side of `examine`: what runs where a crash is survived."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from datasets.decode import decode
from datasets.examine import SIZE
from datasets.intact import doubt

THREADS = 2
PART_IMAGES = 8  # handed to a thread together: handing over costs as much as decoding a tiny PNG
MESSAGE = 300  # characters of what a decoder says


def examine_images(images: list[bytes]) -> Iterable[bytes]:
    """Decode each image; answer with its height and width, uint32 each, and what is wrong or odd with it."""
    parts = [images[start : start + PART_IMAGES] for start in range(0, len(images), PART_IMAGES)]
    for answers in _threads().map(lambda part: [_examine(image) for image in part], parts):
        yield from answers


def _examine(image: bytes) -> bytes:
    try:
        _, height, width = decode(image).shape
    except ValueError as error:
        message = " ".join(str(error).split())
        return SIZE.pack(0, 0) + message[:MESSAGE].encode(errors="replace")
    return SIZE.pack(height, width) + doubt(image).encode()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    torch.set_num_threads(1)
    return ThreadPoolExecutor(THREADS)
