"""What an image file says of itself, read before a decoder is trusted with it: its size in pixels and its checksums."""

from __future__ import annotations

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
MAX_PIXELS = 178_956_970
"""Height times width of the largest image that is decoded: 537 MB as RGB. Pillow refuses larger ones by default."""

BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers of a frame, which has the size
SCAN_MARKER = 0xDA


def check_intact(data: bytes) -> None:
    """Compare what a PNG, JPEG or WebP file says of itself with its bytes; other formats pass.

    Raises ValueError for more than MAX_PIXELS pixels, for a PNG file with a chunk that is cut off or has another
    checksum, and for a JPEG file without a frame. A decoder may end the process over the first and the second.
    """
    if data.startswith(PNG):
        _check_png(data)
    elif data.startswith(JPEG):
        check_pixels(*_jpeg_size(data))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        check_pixels(*_webp_size(data))


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


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width from the first frame's header."""
    start = 2
    while (start := data.find(b"\xff", start)) >= 0 and start + 9 <= len(data):
        marker = data[start + 1]
        if marker in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, start + 5)
            return height, width
        if marker == SCAN_MARKER:
            break
        if marker == 0xFF:
            start += 1  # fill bytes may precede a marker
        elif marker == 0 or marker in BARE_MARKERS:
            start += 2
        else:
            start += 2 + struct.unpack_from(">H", data, start + 2)[0]
    raise ValueError("unreadable image: the JPEG file has no header of a frame")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return height and width of the canvas, from whichever of the three kinds of header comes first."""
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
