"""What a JPEG file says of itself: its size in pixels, and whether its compressed data have a hole of zeros."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

JPEG = b"\xff\xd8"
HOLE = bytes(64)
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is neither a stuffed byte nor a restart
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
HUFFMAN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
TABLES, SCAN, END = 0xC4, 0xDA, 0xD9
BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # markers without a length, and what is none


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width in pixels. Raises ValueError for a file without the header of a frame."""
    for marker, start, stop in _segments(data):
        if marker in FRAMES and stop - start >= 5:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return height, width
        if marker == SCAN:
            break
    raise ValueError("unreadable image: the JPEG file has no header of a frame")


def check_jpeg_holes(data: bytes) -> None:
    """Raise ValueError for a JPEG file with 64 zero bytes within a scan where its Huffman codes make that absurd.

    A code of zeros alone that means anything but "no more coefficients" fills block after block with one and the same
    coefficient. Where it does mean that, as in an image of one color, zeros are natural.
    """
    if data.find(HOLE) < 0:
        return
    first_symbols: dict[int, int] = {}
    for marker, start, stop in _segments(data):
        if marker in FRAMES and marker not in HUFFMAN_FRAMES:
            return
        if marker == TABLES:
            first_symbols |= _first_symbols(data[start:stop])
        if marker == SCAN:
            hole = data.find(HOLE, stop, _scan_end(data, stop))
            if hole >= 0 and not _zeros_are_natural(data[start:stop], first_symbols):
                raise ValueError(f"unreadable image: the JPEG file has a hole of zeros at byte {hole:,}")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and stop of each segment's content, which a scan's compressed data follow."""
    start = len(JPEG)
    while (start := data.find(b"\xff", start)) >= 0 and start + 4 <= len(data):
        marker = data[start + 1]
        if marker == END:
            return
        if marker == 0xFF or marker in BARE:
            start += 1 if marker == 0xFF else 2  # fill bytes may precede a marker
            continue
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start + 4, stop
        start = _scan_end(data, stop) if marker == SCAN else stop


def _scan_end(data: bytes, start: int) -> int:
    found = SCAN_END.search(data, start)
    return found.start() if found else len(data)


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Return class and number of each Huffman table -> the symbol whose code is zeros alone."""
    found, start = {}, 0
    while start + 17 < len(tables):
        found[tables[start]] = tables[start + 17]
        start += 17 + sum(tables[start + 1 : start + 17])
    return found


def _zeros_are_natural(scan: bytes, first_symbols: dict[int, int]) -> bool:
    """Whether zeros in a scan mean differences of zero, and blocks without further coefficients."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return True
    first, last, precision = scan[1 + 2 * count : 4 + 2 * count]
    if precision >> 4:
        return True  # a progressive file's further bits come as they are
    numbers: Sequence[int] = scan[2 : 2 + 2 * count : 2]
    if first == 0 and any(first_symbols.get(number >> 4, 0) for number in numbers):
        return False
    return last == 0 or not any(first_symbols.get(0x10 | number & 15, 0) & 15 for number in numbers)
