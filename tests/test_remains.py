"""What stays of a process that was killed: its folder, the processes that work in it, and what must be left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from study.private_ray import private_folder
from study.watchdog import writes_in

KILLED = """
import subprocess, sys, time
from study import private_ray
private_ray._base = lambda: sys.argv[1]
with private_ray.private_folder() as folder:
    with (folder / "log").open("w") as log:
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=log)
    print(folder, worker.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which processes make theirs: its path is too long for Ray, which is not started here."""
    monkeypatch.setattr("study.private_ray._base", lambda: str(tmp_path))
    return tmp_path


class Killed:
    """A process with a folder in which another one works, and with its watchdog."""

    def __init__(self, temporary: Path) -> None:
        command = [sys.executable, "-c", KILLED, str(temporary)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        folder, pid = self.process.stdout.readline().rsplit(" ", 1)
        self.folder, self.worker = Path(folder), psutil.Process(int(pid))
        [self.watchdog] = [one for one in psutil.Process(self.process.pid).children() if one.pid != self.worker.pid]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def killed(temporary: Path) -> Iterator[Killed]:
    one = Killed(temporary)
    yield one
    if one.process.poll() is None:
        one.kill()
    for process in (one.watchdog, one.worker):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended, also one that nobody has asked for its exit code yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_killed_process_leaves_is_ended_and_removed_and_nothing_else(killed: Killed, temporary: Path) -> None:
    log = killed.folder / "log"
    reader = subprocess.Popen(["tail", "-f", log], stdout=subprocess.DEVNULL)
    with private_folder() as living, (living / "log").open("w") as file:
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=file)
        until(lambda: writes_in(killed.worker.pid, killed.folder))
        killed.kill()
        until(lambda: not killed.folder.exists() and ended(killed.watchdog))
        assert ended(killed.worker)
        assert other.poll() is None and living.exists()
        assert reader.poll() is None, "somebody who reads a log is no part of the launch"
    until(lambda: other.poll() is not None)
    assert list(temporary.iterdir()) == []
    reader.kill()
    reader.wait()


def test_signals_of_a_terminal_do_not_end_the_watchdog(killed: Killed) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        killed.watchdog.send_signal(number)
    assert os.getsid(killed.watchdog.pid) != os.getsid(killed.process.pid)
    killed.kill()
    until(lambda: not killed.folder.exists())


def test_what_stays_where_the_watchdog_was_killed_too_is_removed_by_the_next(killed: Killed, temporary: Path) -> None:
    killed.watchdog.kill()
    killed.kill()
    assert not ended(killed.worker) and killed.folder.exists()
    with private_folder() as folder:
        assert list(temporary.iterdir()) == [folder]
        assert ended(killed.worker)
    assert list(temporary.iterdir()) == []


def test_folder_of_a_process_that_lives_is_left_alone(killed: Killed, temporary: Path) -> None:
    with private_folder() as folder:
        assert set(temporary.iterdir()) == {folder, killed.folder}
        assert not ended(killed.worker) and killed.process.poll() is None


def test_report_beside_a_launch_ends_with_it() -> None:
    """It waits for its task, which never comes."""
    command = f"[{sys.executable!r}, '-m', 'reports.refresh', str(os.getpid())]"
    report = f"import os, subprocess; subprocess.run({command})"
    parent = subprocess.Popen([sys.executable, "-c", report], stdin=subprocess.PIPE)
    until(lambda: len(psutil.Process(parent.pid).children()) == 1)
    [child] = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    until(lambda: ended(child))
    assert parent.stdin is not None
    parent.stdin.close()
