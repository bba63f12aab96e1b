"""How far trials are that have no record yet, as their workers say it beside their checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

from datasets.typed_files import BadFileError
from reports.quantities import Number
from reports.records import Problem
from reports.storage import Storage
from reports.stored import THREADS

FRESH_SECONDS = 120.0
"""Seconds of silence after which a trial counts as interrupted: more than an evaluation takes."""

MOST_ROWS = 1_000
MOST_BYTES = 2**20
"""Rows and bytes of what a trial tells, which has about 100 rows of 10 numbers."""

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=100)]
Row = Annotated[dict[Name, Number], Field(max_length=50)]


@dataclass(frozen=True)
class Progress:
    """Share of the steps done, when that was (seconds since the epoch), in which launch, on which node.

    `saved` is the share of the steps in the latest checkpoint; `ended`: the worker made it because its launch ends.
    `note` is what its user should know ("": nothing).
    `deaths` is how often its process was killed in this launch. `memory_used` of `memory_total` bytes (0: unknown) were
    in use on its machine then.
    `history` is that of the training so far, whose rows have `step`, `loss`, `learning_rate` and what else its stage
    measures. Those of the worker's own session have `images_per_second`, of all workers, and `data_wait`, the share of
    the time in which rank 0 waited for its next images. The last row may be of steps that the record joins with later
    ones.
    """

    share: Share
    updated_at: Annotated[float, Field(ge=0, le=1e11)]
    launch: str = ""
    node: str = ""
    saved: Share = 0.0
    ended: bool = False
    note: str = ""
    deaths: Annotated[int, Field(ge=0)] = 0
    memory_used: Annotated[int, Field(ge=0, le=2**60)] = 0
    memory_total: Annotated[int, Field(ge=0, le=2**60)] = 0
    history: Annotated[tuple[Row, ...], Field(max_length=MOST_ROWS)] = ()

    @property
    def fresh(self) -> bool:
        """Whether its worker said so a short time ago, and did not end then."""
        return not self.ended and time.time() - self.updated_at < FRESH_SECONDS

    def is_of(self, since: str) -> bool:
        """Whether a trial runs in a launch that began at `since` (the later of two times in ISO format is greater)."""
        return self.fresh and self.launch >= since


_PROGRESS = TypeAdapter(Progress)  # it checks types, and passes over what another version of the code adds


def read_progress(storage: Storage, id: str) -> Progress | None:
    """A trial's progress; None before its start and after its end. Raises BadFileError where it cannot be one."""
    try:
        return storage.read_typed(_PROGRESS, "checkpoints", id, "progress.json", most=MOST_BYTES)
    except FileNotFoundError:
        return None


def known_progress(storage: Storage, id: str) -> Progress | None:
    """A trial's progress; None also where it cannot be read, for those who can do without."""
    try:
        return read_progress(storage, id)
    except (OSError, ValueError):
        return None


def read_progresses(storage: Storage, ids: Iterable[str]) -> tuple[dict[str, Progress], list[Problem]]:
    """The progress of those of the trials that have any, many read at a time; and the files that cannot be one."""

    def read(id: str) -> Progress | Problem | None:
        try:
            return read_progress(storage, id)
        except BadFileError as error:
            return Problem(error.path, error.reason)

    ids = list(ids)
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(ids, pool.map(read, ids), strict=True))
    known = {id: one for id, one in found.items() if isinstance(one, Progress)}
    return known, [one for one in found.values() if isinstance(one, Problem)]
