"""The process that tries inputs of one kind: `python -m fuzz.child KIND SEED FIRST LAST SECONDS FOLDER`.

It may be ended by what it reads: its parent knows from FOLDER/counts.json what it was at, and goes on behind that.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from fuzz.kinds import GOOD, find

CPU_SECONDS = 10.0
"""Reading one small input takes milliseconds; one that takes so long hangs."""
MEMORY_MB = 600
"""One small input may not cost more, which is much already: one that does fills a machine where there are many."""
FOREIGN = (UnicodeError, json.JSONDecodeError, ValidationError)
"""Errors of libraries that are ValueErrors, too, and no sentences of ours."""
SIZE = 4096


class SlowError(BaseException):
    """No error that a reader could catch."""


def slow(number: int, frame: FrameType | None) -> None:
    raise SlowError(f"took more than {CPU_SECONDS:.0f} s of CPU time")


class Tally:
    """What became of the inputs so far, in a file that outlives this process."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    def note(self, index: int) -> None:
        content = json.dumps({"at": index, "counts": self.counts}).encode()
        os.pwrite(self._file, content.ljust(SIZE), 0)


def _peak_mb() -> int:
    """The most memory that this process has used, without that of the process that started it."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "Linux tells it"
    return int(found[1]) // 1024


def outcome(attack: Callable[[random.Random], str | Counter[str]], draw: random.Random) -> tuple[Counter[str], str]:
    """What became of one input (or of several), and the traceback where it is a finding."""
    before = _peak_mb()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        found = attack(draw)
        made = Counter([found]) if isinstance(found, str) else found
        told = "" if all(name in GOOD for name in made) else str(dict(made))
    except FOREIGN as error:
        made, told = Counter([f"{type(error).__name__} of a library"]), traceback.format_exc()
    except (ValueError, OSError):
        made, told = Counter(["refused"]), ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        made, told = Counter([type(error).__name__]), traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _peak_mb() - before
    if grown > MEMORY_MB:
        made, told = Counter(["memory"]), f"took {grown:,} MB\n{told}"
    return made, told


def main(kind: str, seed: str, first: int, last: int, seconds: float, folder: Path) -> None:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tally = Tally(folder / "counts.json")
    tally.note(first - 1)
    attack = find(kind).load(work)
    signal.signal(signal.SIGPROF, slow)
    deadline = time.monotonic() + seconds
    for index in range(first, last):
        tally.note(index)
        made, told = outcome(attack, random.Random(f"{kind} {seed} {index}"))
        tally.counts += made
        if told:
            keep(work, folder / f"finding-{index}", told)
        if time.monotonic() > deadline:
            last = index + 1
            break
    tally.note(last)


def keep(work: Path, where: Path, told: str) -> None:
    """Keep the input of a finding, unless there are many already."""
    if len(list(where.parent.glob("finding-*"))) < 20:
        shutil.copytree(work, where, dirs_exist_ok=True)
        (where / "told.txt").write_text(told, encoding="utf-8", errors="replace")


def read_tally(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "counts.json").read_text().rstrip("\x00 "))
    return found


if __name__ == "__main__":
    _, name, seed, first, last, seconds, folder = sys.argv
    main(name, seed, int(first), int(last), float(seconds), Path(folder))
