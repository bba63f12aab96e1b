"""Disks that become full or read-only while a study runs: real ones, mounted for the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import refuse_shared_namespaces

from reports.storage import Storage
from reports.stored import read_failures, read_records
from test_killed import study_file

pytestmark = pytest.mark.timeout(900)

ENDED_SECONDS = 30.0
"""Five are promised, from the moment when the launch notices, which takes up to ten more: a heartbeat."""


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A small file system at a folder."""
    refuse_shared_namespaces()
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def launch(file: Path, storage: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "study", "launch", str(file), "--storage", str(storage)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    process.wait()
    return printed


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, "it did not come to that"
        time.sleep(0.02)


def fill(folder: Path) -> Path:
    """Leave no room on a disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def begun(storage: Path) -> bool:
    return bool(list(storage.glob("checkpoints/pretrain-r10w0.125-*/latest.pt")))


def check_ended(process: subprocess.Popen[str], *words: str, within: float | None = ENDED_SECONDS) -> None:
    """With one sentence and without a traceback."""
    asked = time.monotonic()
    printed = said(process)
    assert within is None or time.monotonic() - asked < within, printed
    [error] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and all(word in error for word in (*words, "then launch again")), printed
    assert "Traceback" not in printed


def check_kept(storage: Path, kept: dict[Path, bytes]) -> None:
    """What was finished is as it was, there are no halves of files, and no trial is said to have failed by itself."""
    assert {path: path.read_bytes() for path in kept} == kept
    assert not [path for path in storage.rglob(".*") if path.is_file()] and not list(storage.rglob("*.partial"))
    assert read_failures(Storage(str(storage))) == ([], [])


def check_goes_on(file: Path, storage: Path) -> None:
    again = launch(file, storage)
    printed = said(again)
    assert again.returncode == 0, printed
    records, _ = read_records(Storage(str(storage)))
    assert len(records) == 4 and max(record.cost.sessions for record in records) == 2


def test_disk_that_becomes_full(shards: str, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "24m") as folder:
        storage, file = folder / "runs", study_file(tmp_path, shards)
        process = launch(file, storage)
        wait_for(lambda: begun(storage), process)
        filler = fill(folder)
        kept = {path: path.read_bytes() for path in storage.glob("records/*.json")}
        check_ended(process, f"no space left on {folder} (where {storage}", "24 MB of 24 MB used")
        check_kept(storage, kept)
        filler.unlink()
        check_goes_on(file, storage)


def test_disk_that_becomes_read_only(shards: str, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "24m") as folder:
        storage, file = folder / "runs", study_file(tmp_path, shards)
        process = launch(file, storage)
        wait_for(lambda: begun(storage), process)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        kept = {path: path.read_bytes() for path in storage.glob("records/*.json")}
        check_ended(process, f"{folder} (where {storage}", "is read-only")
        check_kept(storage, kept)
        check_ended(launch(file, storage), "is read-only", within=None)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        check_goes_on(file, storage)


def test_disk_that_is_full_from_the_start(shards: str, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "400k") as folder:
        file = study_file(tmp_path, shards)
        filler = fill(folder)
        check_ended(
            launch(file, folder / "runs"), f"no space left on {folder} (where ", "400 KB of 400 KB used", within=None
        )
        filler.write_bytes(b"\0" * 300 * 1024)  # then there is no room for the first checkpoint
        check_ended(launch(file, folder / "runs"), f"no space left on {folder} (where ", within=None)
        check_kept(folder, {})
