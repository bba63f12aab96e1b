import io
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from damage import FORMATS, KINDS, bomb, damaged, encoded, picture, with_right_checksums
from datasets.decode import decode, decode_examined
from datasets.examine import Examined, examined, process
from datasets.intact import MAX_PIXELS, check_pixels
from datasets.isolated import CrashError, Isolated


@pytest.fixture(scope="module", autouse=True)
def _processes():
    yield
    process().close()


@pytest.mark.parametrize("name", FORMATS)
def test_an_intact_image_is_examined_as_it_is_decoded(name):
    whole = encoded(name)
    assert torch.equal(decode(whole), decode_examined(whole)) and decode(whole).shape == (3, 80, 96)
    assert list(examined([whole, whole])) == [Examined(80, 96)] * 2


def test_no_damaged_image_ends_the_process_and_all_that_are_refused_say_so():
    draw = random.Random(0)
    files = [damaged(encoded(name), kind, draw) for name in FORMATS for kind in KINDS for _ in range(8)]
    found = list(examined(files))
    assert len(found) == len(files)
    for height, width, error, _ in found:
        assert (height > 0 and width > 0) != bool(error)
        assert not error or error.startswith("unreadable image: ")
        assert "\n" not in error and len(error) < 500
    assert sum(bool(one.error) for one in found) > len(files) / 2


@pytest.mark.parametrize("name", ["png", "png-palette"])
def test_a_damaged_png_is_an_error_wherever_it_is_decoded(name):
    whole, draw = encoded(name), random.Random(0)
    pixels = decode(whole)
    for kind in KINDS:
        for _ in range(20):
            data = damaged(whole, kind, draw)
            try:
                assert torch.equal(decode(data), pixels), "a PNG file is read whole or not at all"
            except ValueError as error:
                assert str(error).startswith("unreadable image: ")


def test_what_crashes_the_decoder_is_survived_named_and_harms_no_other_image():
    whole = encoded("png")
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF
    crashing = with_right_checksums(bytes(broken))  # libpng ends the process over it
    found = list(examined([whole] * 70 + [crashing] + [whole] * 70 + [crashing]))
    assert [number for number, one in enumerate(found) if one.error] == [70, 141]
    assert found[70].error == "unreadable image: its decoder ended by signal 11 (SIGSEGV)"
    assert all(one == Examined(80, 96) for number, one in enumerate(found) if number not in (70, 141))


def test_an_image_of_too_many_pixels_is_refused_by_its_header_in_any_format():
    check_pixels(1, MAX_PIXELS)
    header = bomb(20_000, 20_000)
    assert len(header) < 400_000
    jpeg, webp, gif, tiff = (bytearray(encoded(name)) for name in ("jpeg", "webp-lossless", "gif", "tiff"))
    frame = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, frame + 5, 20_000, 20_000)
    webp[12:20] = b"VP8X" + struct.pack("<I", 10)
    webp[24:30] = (16_382).to_bytes(3, "little") * 2
    struct.pack_into("<HH", gif, 6, 20_000, 20_000)
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "TIFF", compression="group4")
    for data in (header, jpeg, webp, gif, buffer.getvalue()):
        with pytest.raises(ValueError, match=r"^unreadable image: .* pixels, more than 178,956,970; cut it into tiles"):
            decode(bytes(data))
    assert decode(bytes(tiff)).shape == (3, 80, 96)


def test_formats_for_which_pillow_would_start_a_program_are_refused():
    buffer = io.BytesIO()
    picture().save(buffer, "EPS")
    with pytest.raises(ValueError, match="unreadable image: no known format"):
        decode(buffer.getvalue())


@pytest.fixture
def isolated(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    process = Isolated("misbehaving", "misbehave")
    yield process
    process.close()


def test_a_child_that_ends_is_told_how_and_replaced(isolated):
    large = bytes(range(256)) * 2**13
    assert list(isolated.call([b"abc", b"", large])) == [b"cba", b"", large[::-1]]
    first, template = list(isolated.call([b"pid"]))
    for request, message in (
        (b"kill", "ended by signal 9"),
        (b"sleep", "took more than 120 seconds"),
        (b"memory", "needed more than 4 GiB of memory"),
    ):
        with pytest.raises(CrashError, match=message):
            list(isolated.call([request]))
        second, same = list(isolated.call([b"pid"]))
        assert second != first and same == template
    os.kill(int(second), signal.SIGALRM)  # as after a minute without calls
    assert list(isolated.call([b"abc"])) == [b"cba"]
    os.kill(int(template), signal.SIGKILL)
    assert list(isolated.call([b"abc"])) == [b"cba"]  # the child is still there
    isolated.close()
    assert list(isolated.call([b"abc"])) == [b"cba"]


def test_a_function_that_cannot_be_imported_is_an_error(capfd):
    with pytest.raises(CrashError, match="no_such_module call could not be started"):
        list(Isolated("no_such_module", "call").call([b""]))
    assert "ModuleNotFoundError" in capfd.readouterr().err


def test_sharding_a_folder_with_damaged_files_names_them_and_ends(tmp_path):
    whole = encoded("png")
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0xFF
    files = {f"{split}/{one}/{number}.png": whole for split in ("train", "test") for one in "ab" for number in range(3)}
    files |= {"train/a/1.png": bytes(flipped), "train/b/2.png": with_right_checksums(bytes(flipped))}
    for name, data in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    command = [sys.executable, "-m", "study", "shard", str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=250)
    assert done.returncode == 2
    assert "2 images of" in done.stderr and "Traceback" not in done.stderr and "retr" not in done.stderr
    assert "train/a/1.png (unreadable image: the PNG file is damaged between the bytes" in done.stderr
    assert "train/b/2.png (unreadable image: its decoder ended by signal 11 (SIGSEGV))" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
