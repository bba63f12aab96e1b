"""What an image file says of itself, read before a decoder is trusted with it: its size in pixels and its checksums."""

from __future__ import annotations

import struct
import zlib

from datasets.jpeg import JPEG, check_jpeg_holes, jpeg_size
from datasets.webp import is_webp, webp_hole, webp_size

PNG = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 178_956_970
"""Height times width of the largest image that is decoded: 537 MB as RGB. Pillow refuses larger ones by default."""


def check_intact(data: bytes) -> None:
    """Compare what a PNG, JPEG or WebP file says of itself with its bytes; other formats pass.

    Raises ValueError for more than MAX_PIXELS pixels, for a PNG file with a chunk that is cut off or has another
    checksum, for a JPEG file without a frame, and for JPEG and WebP files with a hole of zeros. A decoder may end the
    process over the first and the second, and makes up pixels over the last.
    """
    if data.startswith(PNG):
        _check_png(data)
    elif data.startswith(JPEG):
        check_pixels(*jpeg_size(data))
        check_jpeg_holes(data)
    elif is_webp(data):
        check_pixels(*webp_size(data))
        webp_hole(data)


def doubt(data: bytes) -> str:
    """Say what is odd about an image that `check_intact` lets pass, and may be damage; usually nothing."""
    if is_webp(data) and (length := webp_hole(data)):
        return f"{length:,} zeros in a row"
    return ""


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError for an image of more than MAX_PIXELS pixels."""
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"unreadable image: {width:,} x {height:,} are {height * width:,} pixels, more than {MAX_PIXELS:,}; "
            "cut it into tiles or make it smaller"
        )


def _check_png(data: bytes) -> None:
    """Walk the chunks: length, name, content, and the CRC-32 of name and content."""
    view, start, name = memoryview(data), len(PNG), b""
    while name != b"IEND":
        if start + 12 > len(data):
            raise ValueError("unreadable image: the PNG file is cut off")
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        name = data[start + 4 : start + 8]
        if start == len(PNG):
            if name != b"IHDR" or length != 13:
                raise ValueError("unreadable image: the PNG file does not begin with its header")
            width, height = struct.unpack_from(">II", data, start + 8)
            check_pixels(height, width)
        if end + 4 > len(data):
            raise ValueError(f"unreadable image: the PNG file is cut off, or damaged at byte {start:,}")
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"unreadable image: the PNG file is damaged between the bytes {start:,} and {end + 4:,}")
        start = end + 4
