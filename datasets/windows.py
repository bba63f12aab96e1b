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
    """One worker's part of every epoch over `rows` rows: `rows // world_size` rows of the epoch's order.

    The rows are the first of the split but for the positions in `held_out`, which are never drawn.
    """

    rows: int
    seed: int
    rank: int
    world_size: int
    held_out: range = range(0)

    @property
    def rows_per_epoch(self) -> int:
        """The rows that this worker draws in one epoch."""
        return self.rows // self.world_size

    def positions(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the split of the rows numbered `index` (n,), each in [0, rows), the held-out ones skipped."""
        return index + len(self.held_out) * (index >= self.held_out.start)

    def pieces(self, groups: Sequence[RowGroup]) -> list[Slice]:
        """The slices of row groups that hold the rows, in order."""
        end = self.rows + len(self.held_out)
        spans = [(0, self.held_out.start), (self.held_out.stop, end)] if self.held_out else [(0, end)]
        return [
            Slice(group, max(0, first - group.start), min(group.rows, stop - group.start))
            for group in groups
            for first, stop in spans
            if group.start < stop and first < group.start + group.rows and first < stop
        ]


def epoch_slices(groups: Sequence[RowGroup], share: Share, epoch: int, first: int) -> list[Slice]:
    """Return the slices of row groups, in order, that hold the worker's rows of one epoch from its row `first` on.

    The row groups that hold the share's rows are permuted by (seed, epoch) and laid end to end; the worker's part may
    begin and end within a row group. Reads nothing.
    """
    pieces = share.pieces(groups)
    used = [pieces[number] for number in np.random.default_rng([share.seed, epoch]).permutation(len(pieces))]
    lengths = np.array([piece.stop - piece.first for piece in used])
    ends = np.cumsum(lengths)
    begin, end = share.rank * share.rows_per_epoch + first, (share.rank + 1) * share.rows_per_epoch
    return [
        Slice(
            piece.group,
            piece.first + max(0, begin - (stop - length)),
            piece.first + min(length, end - (stop - length)),
        )
        for piece, length, stop in zip(used, lengths.tolist(), ends.tolist(), strict=True)
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
