"""Images that nobody has decoded yet are decoded once where a crash is survived, before they are part of a shard."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from datasets.isolated import CrashError, Isolated

CALL_IMAGES = 128  # of one call: after a crash they are decoded again one by one
CALL_BYTES = 8 * 2**20
MAX_BYTES = 2**30
"""The largest file that is read as an image: more than any of `intact.MAX_PIXELS` in eight bits a channel has."""

CRASHED = "unreadable image: its decoder"
SIZE = struct.Struct("<II")


class Examined(NamedTuple):
    """Height and width in pixels after EXIF rotation, both 0 where `error` says why the image is unreadable.

    `doubt` says what is odd about one that was decoded: it may be damaged, and a person should look at it.
    """

    height: int
    width: int
    error: str = ""
    doubt: str = ""


def examined(images: Iterable[bytes]) -> Iterator[Examined]:
    """Decode untrusted images in a child process; yield what was found, in order.

    A file over which the decoder crashes, hangs or takes too much memory is unreadable, as is a broken one; the others
    of its call are decoded again.
    """
    for batch in _batches(images):
        try:
            yield from _examine(batch)
        except CrashError:
            for image in batch:
                yield _examine_alone(image)


def _examine(batch: Sequence[bytes]) -> list[Examined]:
    answers = list(process().call(batch))
    assert len(answers) == len(batch), "one answer for each image"
    return [_read_answer(answer) for answer in answers]


def _read_answer(answer: bytes) -> Examined:
    height, width = SIZE.unpack_from(answer)
    said = answer[SIZE.size :].decode()
    return Examined(height, width, doubt=said) if height else Examined(0, 0, error=said)


def _examine_alone(image: bytes) -> Examined:
    try:
        (found,) = _examine([image])
    except CrashError as crash:
        return Examined(0, 0, f"{CRASHED} {crash}")
    return found


@functools.cache
def process() -> Isolated:
    """The process of this process that decodes; `start` it early, as it takes seconds to begin."""
    return Isolated("datasets.examining", "examine_images")


def _batches(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for image in images:
        batch.append(image)
        size += len(image)
        if len(batch) >= CALL_IMAGES or size >= CALL_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
