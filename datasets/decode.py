"""Encoded image bytes to pixels."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F
from torchvision.io import ImageReadMode

from datasets.intact import PNG, check_intact, check_pixels
from datasets.jpeg import JPEG

DECODE_THREADS = min(4, os.cpu_count() or 1)
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may open; of its other formats some start programs, and none is common among pictures."""

Image.MAX_IMAGE_PIXELS = None  # it warns at half of MAX_PIXELS; our own bound is compared before anything is decoded


def decode(data: bytes, max_side: int | None = None) -> torch.Tensor:
    """Decode one image of any common format, turned upright by its EXIF orientation.

    Returns uint8 (3, H, W) RGB: gray is repeated, transparency dropped, 16-bit depth cut to its upper 8 bits, and of an
    animation the first frame is taken. An image whose longer side exceeds `max_side` pixels is reduced to it,
    antialiased. Raises ValueError for truncated or broken files, more than `intact.MAX_PIXELS` pixels, and 32-bit
    depths, whose range is not defined. Decoders are C code, which a file may still bring to end the process: images
    that nobody has decoded yet belong into `examine.examined`.
    """
    check_intact(data)
    return decode_examined(data, max_side)


def decode_examined(data: bytes, max_side: int | None = None) -> torch.Tensor:
    """Decode an image that `decode` has decoded before, when it was sharded: the same result without its checks."""
    image = _decode_with_torchvision(data) if data.startswith((JPEG, PNG)) else None
    if image is None:
        image = _decode_with_pil(data)
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image if max_side is None else reduce(image, max_side)


def reduce(image: torch.Tensor, max_side: int) -> torch.Tensor:
    """Shrink uint8 (3, H, W) so that its longer side is at most `max_side`; smaller images are returned as they are."""
    height, width = image.shape[1:]
    longer = max(height, width)
    if longer <= max_side:
        return image
    size = (max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer)))
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _decode_with_torchvision(data: bytes) -> torch.Tensor | None:
    """Decode half as fast again as PIL, with the same pixels; None for what it cannot read."""
    try:
        # The operator itself: torchvision 0.29 put a deprecation warning before it, but a later one may lack it.
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return cast(torch.Tensor, torch.ops.image.decode_image(encoded, ImageReadMode.RGB.value, True))
    except (AttributeError, RuntimeError):
        return None


def _decode_with_pil(data: bytes) -> torch.Tensor:
    with _damage_named():
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    check_pixels(opened.height, opened.width)
    with _damage_named():
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
    image: Image.Image = opened
    del opened  # a large image is held once only
    if image.mode.startswith("I;16"):  # PIL would clip it to 255
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"unreadable image: 32-bit pixels (mode {image.mode}); convert it to 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette's transparency has no direct way to RGB
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.asarray(image)
    del image
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))  # a copy, as the array is read-only


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Raise ValueError for whatever Pillow's readers raise, which differs by format: struct.error, IndexError."""
    try:
        yield
    except MemoryError:  # tells of this machine, not of the file
        raise
    except UnidentifiedImageError as error:
        raise ValueError("unreadable image: no known format, or a broken header") from error
    except Exception as error:
        raise ValueError(f"unreadable image: {error or type(error).__name__}") from error
