"""Holes of zeros in JPEG and WebP files, which decoders fill with anything."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from damage import picture
from datasets.decode import decode
from datasets.examine import Examined, examined, process
from datasets.intact import doubt
from datasets.shards import _warn_of_doubtful
from datasets.sources import open_source


@pytest.fixture(scope="module", autouse=True)
def _processes():
    yield
    process().close()


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_hole(data, start, length):
    return data[:start] + bytes(length) + data[start + length :]


def half_flat(value):
    pixels = np.array(picture(512, 512))
    pixels[256:] = value
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"subsampling": 0}, {"quality": 40, "restart_marker_rows": 1}]
)
def test_holes_anywhere_in_the_scan_of_a_jpeg_photo_are_refused(options):
    whole = saved(picture(200, 240), "JPEG", **{"quality": 90, **options})
    scan = whole.index(b"\xff\xda") + 14
    for start in range(scan, len(whole) - 300, 331):
        with pytest.raises(ValueError, match="unreadable image"):
            decode(with_hole(whole, start, 256))


@pytest.mark.parametrize("value", [0, 127, 255])
@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"optimize": True, "subsampling": 0}, {"progressive": True}]
)
def test_jpeg_files_with_parts_of_one_color_are_read(value, options):
    flat = Image.new("RGB", (640, 640), (value,) * 3)
    encoded = saved(flat, "JPEG", **options)
    assert (decode(encoded).float() - value).abs().max() <= 1
    assert decode(saved(half_flat(value), "JPEG", **options)).shape == (3, 512, 512)
    assert "optimize" not in options or bytes(64) in encoded  # zeros are natural here


def test_zeros_in_a_jpeg_files_metadata_are_no_hole():
    exif = Image.Exif()
    exif[0x010E] = "\0" * 5000  # as cameras reserve room
    data = saved(picture(), "JPEG", exif=exif) + bytes(5000)
    assert bytes(4000) in data
    assert decode(data).shape == (3, 80, 96)


@pytest.mark.parametrize("tail", [0.1, 0.3, 0.5])
def test_a_webp_file_that_ends_in_zeros_is_refused_or_doubted(tail):
    whole = saved(picture(256, 256), "WEBP", quality=95)
    assert doubt(whole) == ""
    cut = int(len(whole) * (1 - tail))
    (found,) = examined([whole[:cut] + bytes(len(whole) - cut)])
    zeros = f"{len(whole) - cut:,}"
    if len(whole) - cut > 64 + 25 * 16 * 16:  # more than all macroblocks can have
        assert zeros in found.error and found.error.startswith("unreadable image: the WebP file has a hole of")
    else:
        assert found.doubt.endswith("zeros in a row") and found.height == 256


def test_webp_files_with_parts_of_one_color_are_read():
    for value in (0, 127, 255):
        for options in ({"quality": 30}, {"quality": 90, "method": 0}, {"lossless": True, "method": 0}):
            (found,) = examined([saved(half_flat(value), "WEBP", **options)])
            assert (found.height, found.width, found.error) == (512, 512, "")


def test_doubtful_images_are_named_in_a_warning(caplog):
    found = {"doubtful": [f"a/{number:02d}.webp (70 zeros in a row)" for number in range(10)], "doubtful_count": 10}
    with caplog.at_level(logging.WARNING):
        _warn_of_doubtful("photos", [found, {"doubtful": [], "doubtful_count": 0}])
        assert "10 images of photos may be damaged: a/00.webp (70 zeros in a row); a/01" in caplog.text
        assert "others" not in caplog.text
        _warn_of_doubtful("photos", [found, {"doubtful": ["b.webp (64 zeros in a row)"], "doubtful_count": 1}])
    assert "11 images" in caplog.text and " and others; look at them" in caplog.text


def test_the_images_of_the_demo_are_beyond_doubt():
    data = open_source("digits").images.data[:50]
    assert list(examined(data)) == [Examined(8, 8)] * 50
