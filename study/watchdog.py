"""Ends what a dead process has left: run as a script, by `study.private_ray`, beside every process that has a folder.

A launch that is killed ends nothing itself. Ray's node ends with it, but some of Ray's processes stay for minutes, and
the folder stays for ever. This process waits for the lock that the launch holds for as long as it lives. It needs
nothing but Python's own modules.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

LOCK_NAME = "held"
"""This file in a folder is locked for as long as the process lives that made the folder."""

END_SECONDS = 15.0
PAUSE_SECONDS = 0.1
QUIET_LOOKS = 2
"""A process that has just begun may have no file open yet: nothing is left when nothing was seen so often."""


def watch(folder: Path) -> None:
    """Wait for the end of the process that holds a folder, then remove the folder with all that works in it."""
    with suppress(FileNotFoundError), (folder / LOCK_NAME).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder after the processes that work in it."""
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path, seconds: float = END_SECONDS) -> None:
    """End this user's processes that have a file of a folder open for writing, until there are none; spare this process
    and its parent, which may have made the folder and live.

    A person who reads a log there is left alone. Does nothing where the system has no /proc.
    """
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        found = [pid for pid in _pids() if writes_in(pid, folder)]
        quiet = 0 if found else quiet + 1
        for pid in found:
            _kill(pid, folder)
        time.sleep(PAUSE_SECONDS)


def writes_in(pid: int, folder: Path) -> bool:
    """Whether a process of this user, but this one and its parent, has a file below a folder open for writing."""
    proc, below = Path("/proc") / str(pid), f"{folder}/"
    try:
        if pid in (os.getpid(), os.getppid()) or proc.stat().st_uid != os.getuid():
            return False
        for link in (proc / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if str(link.readlink()).startswith(below) and _is_for_writing(proc / "fdinfo" / link.name):
                    return True
    except OSError:  # it has ended
        pass
    return False


def _is_for_writing(info: Path) -> bool:
    """Whether the open file that /proc describes there was opened for writing."""
    [flags] = [line.split()[1] for line in info.read_text().splitlines() if line.startswith("flags:")]
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _pids() -> list[int]:
    try:
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    except OSError:
        return []


def _kill(pid: int, folder: Path) -> None:
    """Kill a process, and never another one that has got its pid meanwhile."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if writes_in(pid, folder):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
