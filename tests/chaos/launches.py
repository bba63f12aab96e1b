"""One launch under attack: started, watched, ended, and what it said and left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.namespaces import ROOT, listening, others, told
from chaos.promises import Findings

LONGEST = 2000
"""Characters of a message."""
LIMIT_SECONDS = 240.0
"""A launch that has not ended by then does not end by itself: on a quiet machine it takes less than half a minute."""
REMAIN_SECONDS = 20.0
AGAIN_SECONDS = 20.0
QUIET_SECONDS = 10.0
"""On two cores with nothing else to do, so long after its command a launch trains."""
OURS = ("labelscale*", "ray/*", "tmp*")
"""What launches leave in the temporary directory, if they leave anything."""
_STACK = re.compile(
    r'^ +File "[^"]+", line \d|Traceback \(most recent call last\)'  # of Python, also as Ray passes it on
    r"|\*\*\* SIG|Fatal Python error|^\s+@\s+0x|\(\+0x[0-9a-f]+\) \[0x",  # of C++
    re.M,
)
_MESSAGE = re.compile(r"^(?=\d+:\d\d |[a-z][a-z ]{2,20}: )", re.M)  # where a message begins


@dataclass
class Place:
    """Where a round's launches run: the study's file, its storage, and a folder for what they say.

    `seconds_to_training` is what an undisturbed launch needed, and `training_seconds` how long it then went on. Of a
    storage that is no folder, `mirror` is where its content is copied to, and `begun` says whether a training has told
    how far it is since a time.
    """

    file: Path
    storage: str
    folder: Path
    wanted: list[str]
    seconds_to_training: float
    training_seconds: float = 10.0
    environment: dict[str, str] = field(default_factory=dict)
    begun: Callable[[float], bool] | None = None
    mirror: Path | None = None
    launches: int = 0

    @property
    def slowness(self) -> float:
        """How many times longer than on a quiet machine everything takes here: promised times are of quiet ones."""
        return max(1.0, self.seconds_to_training / QUIET_SECONDS)

    @property
    def local(self) -> Path:
        return self.mirror or Path(self.storage)

    def has_begun(self, since: float) -> bool:
        """Whether a training has told how far it is since a time, in seconds of the epoch."""
        if self.begun is not None:
            return self.begun(since)
        return any(_written(path) > since for path in self.local.glob("checkpoints/*/progress.json"))

    def without_record(self) -> list[str]:
        return [id for id in self.wanted if not (self.local / f"records/{id}.json").exists()]


class Launch:
    """A running `study launch`, or another command, in its own process group."""

    def __init__(self, place: Place, *further: str, command: str = "launch") -> None:
        place.launches += 1
        self.place, self.command = place, command
        self.name = place.folder / f"{place.launches:02d}-{command}"
        self.began_at, self._began = time.time(), time.monotonic()
        arguments = [sys.executable, "-m", "study", command, str(place.file), "--storage", place.storage, *further]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment | place.environment,
                start_new_session=True,
            )

    def _file(self, kind: str) -> Path:
        return self.name.with_suffix(f".{kind}")

    def said(self, kind: str = "err") -> str:
        return self._file(kind).read_text(encoding="utf-8", errors="replace")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def living(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, at most so long and as long as the launch lives; whether it is."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.living() or time.monotonic() > deadline:
                return condition()
            time.sleep(0.02)
        return True

    def wait_for_training(self) -> bool:
        return self.wait_for(lambda: self.place.has_begun(self.began_at), LIMIT_SECONDS * self.place.slowness)

    def sleep(self, seconds: float) -> bool:
        """Wait so long; whether the launch still lives."""
        self.wait_for(lambda: False, seconds)
        return self.living()

    def signal(self, target: psutil.Process | None, number: signal.Signals) -> bool:
        """Send a signal to one process; whether it was there."""
        try:
            if target is None:
                return False
            target.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def kill_everything(self) -> None:
        """SIGKILL to all processes of this namespace but the round's own, until none is left."""
        while found := others():
            for process in found:
                self.signal(process, signal.SIGKILL)
            time.sleep(0.01)
            self.process.poll()

    def end(self, findings: Findings, expected: set[int]) -> int | None:
        """Wait for the launch's end, and check all that holds for any launch; returns its exit code."""
        limit = LIMIT_SECONDS * self.place.slowness
        self.wait_for(lambda: not self.living(), limit)
        code = self.process.poll()
        if not findings.check("ends", code is not None, f"{self.name.name} runs after {limit:.0f} s"):
            self.kill_everything()
            return None
        findings.check("exit code", code in expected, f"{self.name.name}: {code}, expected {sorted(expected)}")
        self.check_words(findings)
        if code == 1 and self.command == "launch":
            self.check_reasons(findings)
        self.check_remains(findings)
        return code

    def check_words(self, findings: Findings) -> None:
        """Nothing that was printed is a traceback or longer than a message may be."""
        for kind in ("out", "err"):
            said = self.said(kind)
            stack = _STACK.search(said)
            findings.check("traceback", stack is None, f"{self.name.name}.{kind}: {stack and stack.group()}")
            longest = max(len(one.rstrip()) for one in _MESSAGE.split(said))
            findings.check("length", longest <= LONGEST, f"{self.name.name}.{kind}: one of {longest:,} characters")

    def check_reasons(self, findings: Findings) -> None:
        said = self.said()
        whole = re.search(r"^error: \S", said, re.M) is not None
        for id in self.place.without_record():
            named = re.search(rf"^(failed|skipped|left alone|interrupted)[^\n]*: {re.escape(id)}\b: \S", said, re.M)
            findings.check("reason", whole or named is not None, f"{self.name.name}: {id} has none")

    def check_remains(self, findings: Findings) -> None:
        """No process and no socket of an ended launch is left after a while; what is left is then killed."""
        began = time.monotonic()
        deadline = began + REMAIN_SECONDS * self.place.slowness
        while (others() or listening()) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [told(process) for process in others()] + listening()
        if findings.check("remains", not left, f"{self.name.name}: {len(left)} left: {'; '.join(left[:4])}"):
            findings.measure("from the end of a launch to that of its last process", time.monotonic() - began)
        self.kill_everything()

    def check_again(self, findings: Findings) -> None:
        """Measure how long a relaunch needed to train again."""
        allowed = max(AGAIN_SECONDS, self.place.seconds_to_training + 10 * self.place.slowness)
        findings.measure("from the command of a relaunch to its first training", self.seconds)
        findings.check("again", self.seconds < allowed, f"{self.name.name}: {self.seconds:.1f} of {allowed:.1f} s")


def left_in_temporary_directory() -> list[str]:
    """Names of what launches have left in this namespace's temporary directory and shared memory."""
    found = [path for pattern in OURS for path in Path("/tmp").glob(pattern)]
    return sorted(str(path) for path in [*found, *Path("/dev/shm").iterdir()])


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
