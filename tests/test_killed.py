"""Processes of trials that are killed: tried again as often as the study says, and told why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from reports.progress import Progress, read_progress
from reports.storage import Storage
from reports.stored import read_failures, read_records
from studies import tiny
from study.killed import memory, reason
from study.progress import Telling

pytestmark = pytest.mark.timeout(600)


def study_file(folder: Path, shards: str, **execution: Any) -> Path:
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "linear")}
    stages["pretrain"]["optimization"]["epochs"] = 150
    common = {"workers": 1, "per_worker": {"CPU": 1}, "checkpoint_seconds": 0.1}
    changes = {"data": data, "stages": stages, "execution": {**common, **execution}}
    file = folder / "study.yaml"
    file.write_text(
        yaml.safe_dump(tiny(**changes, grid={"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1]}))
    )
    return file


def processes_of(launch: subprocess.Popen[str], trial: str) -> set[int]:
    """The processes of a launch in which a trial trains: they have the file open in which fatal signals are noted."""
    found = set()
    for process in psutil.Process(launch.pid).children(recursive=True):
        try:
            names = [str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        except OSError:  # it has ended
            continue
        found |= {process.pid for name in names if f"/signals/{trial}" in name}
    return found


def test_killed_trial_goes_on_from_its_checkpoint_as_often_as_is_said(shards: str, tmp_path: Path) -> None:
    """One is killed once, and the other one more often than it is tried again."""
    file, storage = study_file(tmp_path, shards, crash_retries=1), tmp_path / "runs"
    command = [sys.executable, "-m", "study", "launch", str(file), "--storage", str(storage)]
    to_kill = {"pretrain-r10w0.0625": [signal.SIGSEGV], "pretrain-r10w0.125": [signal.SIGKILL, signal.SIGKILL]}
    killed: set[int] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launch:
        deadline = time.monotonic() + 400
        while any(to_kill.values()):
            assert launch.poll() is None and time.monotonic() < deadline
            for trial, signals in to_kill.items():
                found = (
                    processes_of(launch, trial) - killed
                    if list(storage.glob(f"checkpoints/{trial}-*/latest.pt"))
                    else {}
                )
                for pid in found if signals else ():
                    os.kill(pid, signals.pop())
                    killed.add(pid)
            time.sleep(0.02)
        assert launch.stdout is not None
        printed = launch.stdout.read()
    assert launch.returncode == 1 and "Traceback" not in printed and "(raylet)" not in printed, printed
    assert printed.count("has lost its process, and goes on from its last checkpoint") == 3
    records, _ = read_records(Storage(str(storage)))
    assert {(record.spec.stage, record.spec.architecture) for record in records} == {
        ("pretrain", "r10w0.0625"),
        ("linear", "r10w0.0625"),
    }
    assert max(record.cost.sessions for record in records) == 2
    [failure], _ = read_failures(Storage(str(storage)))
    assert failure.error_type == "ProcessDied"
    said = r"killed by signal 9, perhaps memory: [\d.]+ of [\d.]+ GB used then \(killed 2 times\); launch again"
    assert re.match(said, failure.message), failure.message


NOTED = """
import ctypes, os, sys
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from study.killed import noting_signals, reason
from reports.progress import Progress
for number in map(int, sys.argv[1:]):
    child = os.fork()
    if child == 0:
        with noting_signals("t", 0):
            os.kill(os.getpid(), number)
    os.waitpid(child, 0)
    print(reason("t", None, here=True))
with noting_signals("t", 0):
    pass
print(reason("t", Progress(0.5, 0.0, memory_used=21 * 2**30, memory_total=24 * 2**30), here=True))
print(reason("t", Progress(0.5, 0.0, memory_used=2**30, memory_total=24 * 2**30), here=False))
"""


def test_signal_is_named_where_it_can_be_known() -> None:
    numbers = [str(int(number)) for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGKILL)]
    done = subprocess.run([sys.executable, "-c", NOTED, *numbers], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [
        "killed by signal 11 (Segmentation fault)",
        "killed by signal 7 (Bus error), perhaps a full /dev/shm or disk",
        "killed by signal 6 (Aborted)",
        "killed by signal 9, perhaps memory",
        "killed by signal 9, perhaps memory: 21 of 24 GB used then",
        "its process ended without a word: 1 of 24 GB of memory used then",
    ], done.stderr


def test_progress_tells_the_memory_in_use(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Telling(storage, "t", "now", "here", deaths=1, memory=memory).tell(0.5, 0.25)
    progress = read_progress(storage, "t")
    assert progress is not None and progress.deaths == 1
    assert 0 < progress.memory_used < progress.memory_total <= psutil.virtual_memory().total
    assert "of memory used then" in reason("t", progress, here=False)
    assert reason("t", Progress(0.5, 0.0), here=False) == "its process ended without a word"


def test_note_of_a_trial_that_goes_on_leaves_how_far_it_is(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    telling = Telling(storage, "t", "now", "here")
    telling.tell(0.4, 0.3)
    telling.note("with other threads")
    telling.tell(0.45, 0.3)
    progress = read_progress(storage, "t")
    assert progress is not None and (progress.share, progress.saved) == (0.45, 0.3)
    assert progress.note == "with other threads"
