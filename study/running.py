"""How far the trials of a launch are, read by threads while the launch goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from reports.storage import Storage
from reports.stored import THREADS
from study.progress import Progress, read_progress

READ_SECONDS = 5.0
"""Running trials are looked at so often, as they write how far they are."""

logger = logging.getLogger(__name__)


def read_progresses(storage: Storage, ids: Iterable[str]) -> dict[str, Progress]:
    """The progress of those of the trials that have any, many read at a time."""
    ids = list(ids)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda id: read_progress(storage, id), ids)
        return {id: known for id, known in zip(ids, found, strict=True) if known is not None}


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
        told = False
        while not self._over:
            try:
                self.known = read_progresses(self._storage, self._running())
                told = False
            except (OSError, ValueError) as error:  # it does not answer, or a file is torn
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
