"""How far a running trial is, as its worker writes it beside the checkpoints and everyone else reads it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

from datasets.disk import DiskError
from reports.storage import Storage

PROGRESS_SECONDS = 5.0
"""A running trial says how far it is this often, in `progress.json` beside its checkpoints."""

FRESH_SECONDS = 120.0
"""A trial that has not written for so long is taken to be interrupted, not running: longer than an evaluation takes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Share of the steps done, in [0, 1], when that was (seconds since the epoch), in which launch, on which node.

    `saved` is the share of the steps in the latest checkpoint; `ended`: the worker made it because its launch ends.
    `note` is what its user should know ("": nothing).
    `deaths` is how often its process was killed in this launch. `memory_used` of `memory_total` bytes (0: unknown) were
    in use on its machine then.
    """

    share: Annotated[float, Field(ge=0, le=1)]
    updated_at: Annotated[float, Field(ge=0, le=1e11)]
    launch: str = ""
    node: str = ""
    saved: Annotated[float, Field(ge=0, le=1)] = 0.0
    ended: bool = False
    note: str = ""
    deaths: Annotated[int, Field(ge=0)] = 0
    memory_used: Annotated[int, Field(ge=0, le=2**60)] = 0
    memory_total: Annotated[int, Field(ge=0, le=2**60)] = 0

    def is_of(self, since: str) -> bool:
        """Whether a trial runs in a launch that began at `since` (the later of two times in ISO format is greater)."""
        return not self.ended and self.launch >= since and time.time() - self.updated_at < FRESH_SECONDS


_PROGRESS = TypeAdapter(Progress)  # it checks types, and passes over what another version of the code adds


def write_progress(storage: Storage, id: str, progress: Progress) -> None:
    storage.write_bytes(json.dumps(asdict(progress)).encode(), "checkpoints", id, "progress.json")


def read_progress(storage: Storage, id: str) -> Progress | None:
    """A trial's progress; None before its start and after its end. Raises BadFileError where it cannot be one."""
    try:
        return storage.read_typed(_PROGRESS, "checkpoints", id, "progress.json")
    except FileNotFoundError:
        return None


def known_progress(storage: Storage, id: str) -> Progress | None:
    """A trial's progress; None also where it cannot be read, for those who can do without."""
    try:
        return read_progress(storage, id)
    except (OSError, ValueError):
        return None


def clear_progress(storage: Storage, id: str) -> None:
    storage.delete("checkpoints", id, "progress.json")


class Telling:
    """Says how far a trial is: at once, and then at most every `PROGRESS_SECONDS`.

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
    ) -> None:
        self._storage, self._id, self._launch, self._node = storage, id, launch, node
        self._deaths, self._memory = deaths, memory
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

    def write(self, share: float, saved: float, *, ended: bool = False) -> None:
        now, memory = time.time(), self._memory()
        progress = Progress(share, now, self._launch, self._node, saved, ended, self._note, self._deaths, *memory)
        try:
            write_progress(self._storage, self._id, progress)
        except DiskError:
            raise
        except OSError as error:
            if not self._told:
                logger.warning("the progress of %s cannot be written, which is tried again: %s", self._id, error)
            self._told = True
        self._written_at = time.monotonic()  # after the write: one that waits for an outage is not made in every step
