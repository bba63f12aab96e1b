"""What a WebP file says of itself: its size in pixels, and whether its compressed data have a hole of zeros."""

from __future__ import annotations

import re
import struct

HOLES = re.compile(rb"\x00{64,}")
MACROBLOCK_BYTES = 25
"""The most that a macroblock without coefficients takes: an end in each of its 25 blocks, at 8 bits each (RFC 6386)."""


def is_webp(data: bytes) -> bool:
    """Return whether a file is of this format."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def webp_size(data: bytes) -> tuple[int, int]:
    """Return height and width in pixels of the canvas, from whichever of the three kinds of header comes first.

    Raises ValueError for a file without any.
    """
    kind, header = data[12:16], data[20:30]
    if len(header) < 10:
        raise ValueError("unreadable image: the WebP file is cut off")
    if kind == b"VP8X":
        return 1 + int.from_bytes(header[7:10], "little"), 1 + int.from_bytes(header[4:7], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", header, 6)
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError("unreadable image: the WebP file has no header of a picture")


def webp_hole(data: bytes) -> int:
    """Return the length of the longest run of 64 zero bytes or more in the lossy picture of a WebP file, else 0.

    Raises ValueError where it is longer than all macroblocks together could explain. A shorter one may be natural: some
    encoders write zeros for parts of one color, as those of the lossless kind do.
    """
    longest, start = 0, 12
    while start + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, start + 4)
        if data[start : start + 4] == b"VP8 ":
            runs = HOLES.finditer(data, start + 8, start + 8 + length)
            longest = max([longest, *(len(run[0]) for run in runs)])
        start += 8 + length + length % 2
    height, width = webp_size(data)
    if longest > 64 + MACROBLOCK_BYTES * -(-height // 16) * -(-width // 16):
        raise ValueError(f"unreadable image: the WebP file has a hole of {longest:,} zeros")
    return longest
