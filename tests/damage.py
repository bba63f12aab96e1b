"""Small images of all formats, and ways in which files are damaged: what several test modules and `make fuzz` share."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = {
    "jpeg": ("JPEG", {}),
    "jpeg-progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "png-palette": ("PNG", {}),
    "webp": ("WEBP", {"quality": 90}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "tiff-jpeg": ("TIFF", {"compression": "jpeg"}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
}
"""Name -> Pillow's name of the format, and its options."""

KINDS = ("flip", "cut", "zero", "hole", "splice")


def picture(height: int = 80, width: int = 96) -> Image.Image:
    """A gradient with noise: it compresses as photographs do."""
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    gradient = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray((gradient + noise).clip(0, 255).astype(np.uint8))


def encoded(name: str, image: Image.Image | None = None) -> bytes:
    """A picture in the format of this name."""
    image = picture() if image is None else image
    kind, options = FORMATS[name]
    buffer = io.BytesIO()
    (image.convert("P") if name == "png-palette" else image).save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(data: bytes, kind: str, draw: random.Random) -> bytes:
    """Damage a file in one of KINDS: flipped bits, its end cut off or made zeros, a hole of zeros, a part repeated."""
    found, size = bytearray(data), len(data)
    start = draw.randrange(size)
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 1, 3, 10))):
            found[draw.randrange(size)] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del found[start:]
    elif kind == "zero":
        found[start:] = bytes(size - start)
    elif kind == "hole":
        length = min(size - start, draw.choice((16, 64, 512, 4096)))
        found[start : start + length] = bytes(length)
    else:
        assert kind == "splice"
        other = draw.randrange(size)
        found[start:start] = found[other : other + draw.randrange(1, 400)]
    return bytes(found)


def with_right_checksums(png: bytes) -> bytes:
    """A PNG file whose chunks have the checksums of what they hold: only a decoder notices what is wrong inside."""
    found, start = bytearray(png), 8
    while start + 12 <= len(found):
        (length,) = struct.unpack_from(">I", found, start)
        end = start + 8 + length
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[start + 4 : end]))
        start = end + 4
    return bytes(found)


def bomb(width: int, height: int) -> bytes:
    """A black PNG file of so many pixels in very few bytes, made a row at a time."""
    packed, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    pixels = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
