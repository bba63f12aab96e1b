"""The child's side of `examine`: what runs where a crash is survived."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from datasets.decode import decode
from datasets.examine import SIZE

THREADS = 2
MESSAGE = 300  # characters of what a decoder says


def examine_images(images: list[bytes]) -> Iterable[bytes]:
    """Decode each image; answer with its height and width, uint32 each, and the message of what is wrong with it."""
    return _threads().map(_examine, images) if len(images) > 1 else map(_examine, images)


def _examine(image: bytes) -> bytes:
    try:
        _, height, width = decode(image).shape
    except ValueError as error:
        message = " ".join(str(error).split())
        return SIZE.pack(0, 0) + message[:MESSAGE].encode(errors="replace")
    return SIZE.pack(height, width)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    torch.set_num_threads(1)
    return ThreadPoolExecutor(THREADS)
