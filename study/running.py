"""How far the trials of a launch are, read by threads while the launch goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from reports.progress import Progress, read_progresses
from reports.storage import Storage

READ_SECONDS = 5.0
"""Seconds between two looks at running trials, which write how far they are as often."""

logger = logging.getLogger(__name__)


class Follower:
    """What is known of the trials that `running` names; `known` may be asked for at any time and never waits.

    It is for display and guesses alone: where the storage does not answer, what was read before counts.
    """

    def __init__(self, storage: Storage, running: Callable[[], list[str]], seconds: float) -> None:
        self.known: Mapping[str, Progress] = {}
        self._storage, self._running, self._seconds = storage, running, seconds
        self._over, self._awake = False, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more; a storage that does not answer is not waited for."""
        self._over = True
        self._awake.set()

    def hurry(self, seconds: float) -> None:
        """Look so often from now on."""
        self._seconds = seconds
        self._awake.set()

    def _follow(self) -> None:
        told, bad = False, set[str]()
        while not self._over:
            try:
                self.known, problems = read_progresses(self._storage, self._running())
                for problem in problems:
                    if problem.path not in bad:
                        logger.warning("%s: %s; how far that trial is cannot be shown", problem.path, problem.reason)
                bad = {problem.path for problem in problems}
                told = False
            except OSError as error:  # it does not answer
                if not told:
                    logger.warning("how far trials are cannot be read, which is tried again: %s", error)
                told = True
            self._awake.wait(self._seconds)
            self._awake.clear()


@contextmanager
def following(storage: Storage, running: Callable[[], list[str]], seconds: float = READ_SECONDS) -> Iterator[Follower]:
    """Follow trials until the end of a block."""
    follower = Follower(storage, running, seconds)
    try:
        yield follower
    finally:
        follower.stop()


class Notes:
    """Says once what workers note for their user."""

    def __init__(self, say: Callable[[str], object], follower: Follower) -> None:
        self._say, self._follower = say, follower
        self._said: set[str] = set()

    def look(self) -> None:
        for known in self._follower.known.values():
            if known.note and known.note not in self._said:
                self._said.add(known.note)
                self._say(known.note)
