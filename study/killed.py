"""Processes of trials that the system kills: what is known of why, and what is said of it."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from reports.progress import Progress
from study.cluster import session_folder

FATAL = {
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
    "Floating-point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}
"""Signals by the words in which Python's `faulthandler` notes them."""


def memory() -> tuple[int, int]:
    """Bytes of memory in use and in all, of this machine or, where it is less, of this container."""
    used: float = get_used_memory()  # type: ignore[no-untyped-call]
    return int(used), int(get_system_memory())


@contextmanager
def noting_signals(id: str, rank: int) -> Iterator[None]:
    """A block in which a signal that ends this process is noted in a file of this machine, as far as one can be: no
    process learns of SIGKILL. Does nothing outside of Ray."""
    if not ray.is_initialized():
        yield
        return
    path = _folder() / f"{id}.{rank}"
    with path.open("w") as file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.enable()
            path.unlink(missing_ok=True)


def reason(id: str, last: Progress | None, *, here: bool) -> str:
    """Why a process of a trial ended without a word; `last` is how far it was, `here`: it was on this machine."""
    number = _noted_signal(id) if here else None
    if not here:
        said = "its process ended without a word"
    elif number is None:
        said = f"killed by signal {signal.SIGKILL:d}, perhaps memory"
    elif number == signal.SIGBUS:
        said = f"killed by signal {number:d} ({signal.strsignal(number)}), perhaps a full /dev/shm or disk"
    else:
        said = f"killed by signal {number:d} ({signal.strsignal(number)})"
    if last is None or not last.memory_total:
        return said
    used, total = last.memory_used / 2**30, last.memory_total / 2**30
    what = "" if number is None and here else " of memory"
    return f"{said}: {used:.3g} of {total:.3g} GB{what} used then"


def reason_of_silence() -> str:
    """Why a trial has failed that told nothing at all, so far as this machine knows."""
    used, total = (size / 2**30 for size in memory())
    said = "its process ended before it told anything, perhaps for memory"
    return f"{said}: {used:.3g} of {total:.3g} GB are in use here now"


def _noted_signal(id: str) -> signal.Signals | None:
    """The signal that ended a process of a trial on this machine, if one was noted; it is forgotten then."""
    found = None
    for path in sorted(_folder().glob(f"{id}.*")):
        text = path.read_text(errors="replace")
        found = next((number for words, number in FATAL.items() if words in text), found)
        path.unlink(missing_ok=True)
    return found


def _folder() -> Path:
    """A folder of this machine that ends with its Ray."""
    folder = Path(session_folder()) / "signals"
    folder.mkdir(exist_ok=True)
    return folder
