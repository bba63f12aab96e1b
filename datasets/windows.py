"""The order of rows in streaming mode: row groups permuted by epoch, rows shuffled within windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.blocks import EncodedRows, RowGroup, Slice, read_slices

WINDOW_ROWS = 2048  # about 225 MB of ImageNet, and no fewer than eight row groups


@dataclass(frozen=True)
class Share:
    """One worker's part of every epoch over the first `rows` rows: `rows // world_size` rows of the epoch's order."""

    rows: int
    seed: int
    rank: int
    world_size: int

    @property
    def rows_per_epoch(self) -> int:
        """The rows that this worker draws in one epoch."""
        return self.rows // self.world_size


def epoch_slices(groups: Sequence[RowGroup], share: Share, epoch: int, first: int) -> list[Slice]:
    """Return the slices of row groups, in order, that hold the worker's rows of one epoch from its row `first` on.

    The row groups that hold the first `rows` rows are permuted by (seed, epoch) and laid end to end; the worker's part
    may begin and end within a row group. Reads nothing.
    """
    used = [group for group in groups if group.start < share.rows]
    order = np.random.default_rng([share.seed, epoch]).permutation(len(used))
    lengths = np.array([min(used[number].rows, share.rows - used[number].start) for number in order])
    ends = np.cumsum(lengths)
    begin, end = share.rank * share.rows_per_epoch + first, (share.rank + 1) * share.rows_per_epoch
    return [
        Slice(used[number], max(0, begin - (stop - length)), min(length, end - (stop - length)))
        for number, length, stop in zip(order.tolist(), lengths.tolist(), ends.tolist(), strict=True)
        if stop > begin and stop - length < end
    ]


def shuffled_rows(
    groups: Sequence[RowGroup], share: Share, bytes_per_row: float, first_position: int
) -> Iterator[tuple[EncodedRows, NDArray[np.int64]]]:
    """Yield the worker's endless stream from `first_position` on, as windows of rows with their epochs (n,).

    Position p is row p % rows_per_epoch of epoch p // rows_per_epoch. Window w of an epoch is its rows w x WINDOW_ROWS
    and following, shuffled by (seed, epoch, rank, w). What lies before the window of `first_position` is not read.
    """
    epoch, index = divmod(first_position, share.rows_per_epoch)
    for number in itertools.count(epoch):
        window, skip = divmod(index if number == epoch else 0, WINDOW_ROWS)
        slices = epoch_slices(groups, share, number, window * WINDOW_ROWS)
        for offset, table in enumerate(_windows(slices, bytes_per_row)):
            random = np.random.default_rng([share.seed, number, share.rank, window + offset])
            order = random.permutation(table.num_rows)
            rows = EncodedRows.from_table(table).take(order[skip if offset == 0 else 0 :])
            yield rows, np.full(len(rows.ids), number, np.int64)


def _windows(slices: Sequence[Slice], bytes_per_row: float) -> Iterator[pa.Table]:
    """Read slices and cut their rows, laid end to end, into tables of WINDOW_ROWS rows; the last may be shorter."""
    tables: list[pa.Table] = []
    count = 0
    for table in read_slices(slices, bytes_per_row):
        tables.append(table)
        count += table.num_rows
        while count >= WINDOW_ROWS:
            whole = pa.concat_tables(tables)
            yield whole.slice(0, WINDOW_ROWS)
            tables, count = [whole.slice(WINDOW_ROWS)], count - WINDOW_ROWS
    if count:
        yield pa.concat_tables(tables)
