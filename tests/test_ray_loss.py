"""A launch whose own Ray loses its control store or raylet: it begins anew by itself, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from reports.storage import Storage
from reports.stored import read_failures, read_records
from test_killed import study_file

pytestmark = pytest.mark.timeout(600)


def lose(launch: subprocess.Popen[str], name: str, storage: Path, after: float = 0.0) -> float:
    """Kill one of Ray's own processes once there is a checkpoint younger than `after`; returns when."""
    deadline = time.monotonic() + 400
    while True:
        assert launch.poll() is None and time.monotonic() < deadline
        checkpoints = [path.stat().st_mtime for path in storage.glob("checkpoints/*/latest.pt")]
        if checkpoints and max(checkpoints) > after:
            living = [one for one in psutil.Process(launch.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
            [found] = [one for one in living if one.name() == name]
            os.kill(found.pid, signal.SIGKILL)
            return time.time()
        time.sleep(0.05)


def started(file: Path, storage: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "study", "launch", str(file), "--storage", str(storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_launch_begins_anew_once(shards: str, tmp_path: Path, ray_folder: Path) -> None:
    file, storage = study_file(tmp_path, shards), tmp_path / "runs"
    with started(file, storage) as launch:
        lose(launch, "gcs_server", storage)
        printed, complained = launch.communicate(timeout=400)
    deadline = time.monotonic() + 60
    while list(ray_folder.iterdir()):
        assert time.monotonic() < deadline, "folders of the launch are left"
        time.sleep(0.1)
    assert launch.returncode == 0 and "4 done" in printed, printed + complained
    assert printed.count("Ray's control store was lost (killed by signal 9): starting Ray anew") == 1
    assert "Traceback" not in printed + complained and "error" not in complained
    records, _ = read_records(Storage(str(storage)))
    assert len(records) == 4 and max(record.cost.sessions for record in records) == 2
    assert read_failures(Storage(str(storage))) == ([], []) and not list(storage.glob("lease/*"))
