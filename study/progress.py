"""How a running trial tells how far it is, beside its checkpoints; everyone else reads it there."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from datasets.disk import DiskError
from reports.progress import Progress, known_progress
from reports.quantities import LARGEST
from reports.storage import Storage

PROGRESS_SECONDS = 5.0
"""A running trial says how far it is this often, in `progress.json` beside its checkpoints."""

History = Sequence[Mapping[str, float]]

logger = logging.getLogger(__name__)


def write_progress(storage: Storage, id: str, progress: Progress) -> None:
    storage.write_bytes(json.dumps(asdict(progress)).encode(), "checkpoints", id, "progress.json")


def clear_progress(storage: Storage, id: str) -> None:
    storage.delete("checkpoints", id, "progress.json")


class Telling:
    """Says how far a trial is, with its `history` so far: at once, and then at most every `PROGRESS_SECONDS`.

    It only informs: where that cannot be written, training goes on, and it is tried again. But a disk that is full or
    read-only ends the training, whose checkpoints it would not take either.
    """

    def __init__(
        self,
        storage: Storage,
        id: str,
        launch: str,
        node: str,
        deaths: int = 0,
        memory: Callable[[], tuple[int, int]] = lambda: (0, 0),
        history: Callable[[], History] = tuple,
    ) -> None:
        self._storage, self._id, self._launch, self._node = storage, id, launch, node
        self._deaths, self._memory, self._history = deaths, memory, history
        self._told, self._written_at = False, -math.inf
        self._note = ""

    def saved_before(self) -> float:
        """The share of the steps that an earlier session has left in a checkpoint, and says so."""
        before = known_progress(self._storage, self._id)
        saved = 0.0 if before is None else before.saved
        self.tell(saved, saved)
        return saved

    def tell(self, share: float, saved: float) -> None:
        if time.monotonic() - self._written_at >= PROGRESS_SECONDS:
            self.write(share, saved)

    def warn(self, note: str) -> None:
        """Tell the user of a trial that begins anew, at once and from then on."""
        self._note = note
        self.write(0.0, 0.0)

    def note(self, note: str) -> None:
        """Tell the user something of a trial that goes on, with its progress, which is written the next time."""
        self._note, self._written_at = note, -math.inf

    def write(self, share: float, saved: float, *, ended: bool = False) -> None:
        now, memory = time.time(), self._memory()
        progress = Progress(
            *(share, now, self._launch, self._node, saved, ended, self._note, self._deaths, *memory),
            history=tuple(map(_finite, self._history())),
        )
        try:
            write_progress(self._storage, self._id, progress)
        except DiskError:
            raise
        except OSError as error:
            if not self._told:
                logger.warning("the progress of %s cannot be written, which is tried again: %s", self._id, error)
            self._told = True
        self._written_at = time.monotonic()  # after the write: one that waits for an outage is not made in every step


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    """A row without the numbers that JSON does not have."""
    return {name: value for name, value in row.items() if abs(value) <= LARGEST}
