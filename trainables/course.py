"""How a training goes, for those who watch it. None of it is part of a checkpoint or of a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Row = dict[str, float]
T = TypeVar("T")


class Course:
    """The history of a training so far, with its pace; one a worker, from the beginning of a session on.

    The pace of this session's rows is `images_per_second`, of all workers, and `data_wait`, the share of the time in
    which this worker waited for its next batch, in [0, 1]. Both are of the time since the row before, and include
    whatever else was done then, such as an evaluation or a checkpoint.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: list[Row] = []
        self._latest: Callable[[], Row | None] = lambda: None
        self._images = self._counted = 0
        self._since, self._waited = clock(), 0.0

    def begin(self, history: list[Row], images: int, latest: Callable[[], Row | None]) -> None:
        """Note what earlier sessions did. `latest` is a row of the steps that no row of the history has yet, if there
        are any."""
        self._rows, self._latest = [dict(row) for row in history], latest
        self._images = self._counted = images
        self._since, self._waited = self._clock(), 0.0

    def fetched(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time is noted in which they are waited for."""
        while True:
            asked_at = self._clock()
            batch = next(batches, None)
            self._waited += self._clock() - asked_at
            if batch is None:
                return
            yield batch

    def stepped(self, images: int) -> None:
        """Note how many images the training has seen."""
        self._images = images

    def add(self, row: Row) -> None:
        """Add a row of the history."""
        self._rows.append(row | self._pace())
        self._counted, self._since, self._waited = self._images, self._clock(), 0.0

    def rows(self) -> list[Row]:
        """All rows, the last one of the latest steps, which the history may join with later ones."""
        latest = self._latest()
        return self._rows if latest is None else [*self._rows, latest | self._pace()]

    def _pace(self) -> Row:
        seconds = self._clock() - self._since
        if seconds <= 0:
            return {}
        return {
            "images_per_second": (self._images - self._counted) / seconds,
            "data_wait": min(1.0, self._waited / seconds),
        }
