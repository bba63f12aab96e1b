"""Shards to batches: resumable training streams, and evaluation that sees every row once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from datasets.batches import Batch, decode_rows
from datasets.blocks import EncodedRows, read_rows, row_groups
from datasets.decode import DECODE_THREADS
from datasets.manifest import read_manifest
from datasets.object_store import OUTAGE_SECONDS
from datasets.resident import RESIDENT_BYTES, decoded_bytes, resident_rows
from datasets.schema import Split
from datasets.threads import prefetched
from datasets.windows import Share, shuffled_rows

PREFETCHED_BATCHES = 2


class TrainStream:
    """The endless, shuffled stream of the first `rows` training rows, the same at every step whenever it is asked for.

    The rows at the positions in `held_out` are left out; in what follows `rows` is the number of the others.

    The epochs' permutations are laid end to end, so no remainder is dropped; step s covers positions s x
    global_batch_size and following, of which rank r takes the r-th contiguous part. Position p belongs to epoch p //
    rows.

    Where the decoded rows fit into `resident_bytes`, they are kept in memory, an epoch is one permutation by (seed,
    epoch) and the union over the ranks is the same for every world size. Larger sets are streamed: each rank draws rows
    // world_size rows of every epoch, from permuted row groups and shuffled in windows, so the order depends on the
    world size.

    `max_side`: longer sides are reduced to that many pixels when decoded. Raises ValueError for shards that are
    missing, rows out of range, and a global batch that the ranks cannot share equally.
    """

    def __init__(
        self,
        shards_uri: str,
        rows: int,
        *,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        max_side: int,
        held_out: range = range(0),
        resident_bytes: int = RESIDENT_BYTES,
        threads: int = DECODE_THREADS,
    ) -> None:
        self._manifest = read_manifest(shards_uri, OUTAGE_SECONDS)
        _check_rank(rank, world_size)
        _check_rows(rows, self._manifest.train_images, shards_uri, "train")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ValueError(
                f"found a global batch of {global_batch_size} for {world_size} workers; "
                f"expected a positive multiple of {world_size}"
            )
        self.resident = decoded_bytes(self._manifest, rows, max_side) <= resident_bytes
        drawn = rows - len(held_out)
        if drawn < 1 or (not self.resident and drawn < world_size):
            raise ValueError(f"found {drawn} rows for {world_size} workers; expected at least one row each")
        self._uri = shards_uri
        self._share = Share(drawn, seed, rank, world_size, held_out)
        self._global_batch_size = global_batch_size
        self._per_worker_batch_size = global_batch_size // world_size
        self._max_side = max_side
        self._resident_bytes = resident_bytes
        self._threads = threads

    def batch(self, step: int) -> Batch:
        """Return this rank's part of step `step` (from 0)."""
        if self.resident:
            return self._resident_batch(step)
        batches = self._streamed(step)
        try:
            return next(batches)
        finally:
            batches.close()

    def iterate(self, first_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of the steps from `first_step` on, without end, made while the caller trains."""
        batches = self._streamed(first_step) if not self.resident else self._indexed(first_step)
        return prefetched(batches, PREFETCHED_BATCHES)

    def _indexed(self, first_step: int) -> Generator[Batch]:
        for step in itertools.count(first_step):
            yield self._resident_batch(step)

    def _resident_batch(self, step: int) -> Batch:
        share = self._share
        decoded = resident_rows(
            self._uri,
            self._manifest,
            "train",
            0,
            share.rows + len(share.held_out),
            max_side=self._max_side,
            threads=self._threads,
            limit=self._resident_bytes,
        )
        return decoded.batch(*draw(share, self._global_batch_size, step))

    def _streamed(self, first_step: int) -> Generator[Batch]:
        groups = row_groups(self._uri, self._manifest, "train")
        size = self._per_worker_batch_size
        with ThreadPoolExecutor(self._threads) as pool:
            for rows, epochs in _cut(
                shuffled_rows(groups, self._share, self._manifest.mean_image_bytes, first_step * size), size
            ):
                yield decode_rows(pool, rows, epochs, self._max_side)


def eval_batches(
    shards_uri: str,
    *,
    split: Split,
    rows: int | None = None,
    first_row: int = 0,
    per_worker_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    max_side: int,
    resident_bytes: int = RESIDENT_BYTES,
    threads: int = DECODE_THREADS,
) -> Iterator[Batch]:
    """Yield `rows` rows of a split (None: all) from `first_row` on in order, every row on exactly one rank.

    Rank r takes those from first_row + r x rows // world_size on; the last batch may be smaller, and a rank may have
    one row fewer than another, or none. Decoded rows are kept in memory as in `TrainStream`. Raises ValueError for
    shards that are missing and rows out of range.
    """
    manifest = read_manifest(shards_uri, OUTAGE_SECONDS)
    available = manifest.split_images(split)
    rows = available - first_row if rows is None else rows
    _check_rank(rank, world_size)
    _check_rows(rows, available - first_row, shards_uri, split)
    if per_worker_batch_size < 1:
        raise ValueError(f"found a per-worker batch of {per_worker_batch_size}; expected at least 1")
    start, stop = first_row + rank * rows // world_size, first_row + (rank + 1) * rows // world_size

    def indexed() -> Generator[Batch]:
        decoded = resident_rows(
            shards_uri, manifest, split, start, stop, max_side=max_side, threads=threads, limit=resident_bytes
        )
        for first in range(start, stop, per_worker_batch_size):
            positions = np.arange(first, min(stop, first + per_worker_batch_size))
            yield decoded.batch(positions, np.zeros_like(positions))

    def streamed() -> Generator[Batch]:
        parts = ((part, np.zeros_like(part.ids)) for part in read_rows(shards_uri, manifest, split, start, stop))
        with ThreadPoolExecutor(threads) as pool:
            for part, epochs in _cut(parts, per_worker_batch_size):
                yield decode_rows(pool, part, epochs, max_side)

    resident = decoded_bytes(manifest, stop - start, max_side) <= resident_bytes
    return prefetched(indexed() if resident else streamed(), PREFETCHED_BATCHES)


def draw(share: Share, global_batch_size: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows (n,) that a worker draws at a step from epochs laid end to end, and their epochs (n,)."""
    size = global_batch_size // share.world_size
    first = step * global_batch_size + share.rank * size
    epochs, index = np.divmod(np.arange(first, first + size), share.rows)
    positions = np.empty_like(index)
    for epoch in range(epochs[0], epochs[-1] + 1):
        drawn = epochs == epoch
        positions[drawn] = permutation(share.seed, epoch, share.rows)[index[drawn]]
    return share.positions(positions), epochs


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """Return epoch `epoch`'s order of `rows` rows, int64 (rows,): a pure function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order.flags.writeable = False  # it is shared
    return order


def _cut(
    parts: Iterable[tuple[EncodedRows, NDArray[np.int64]]], size: int
) -> Iterator[tuple[EncodedRows, NDArray[np.int64]]]:
    """Cut rows with their epochs, laid end to end, into pieces of `size`; the last may be shorter."""
    ids, labels, epochs = (np.empty(0, np.int64) for _ in range(3))
    images: list[object] = []
    for rows, row_epochs in parts:
        ids, labels = np.concatenate([ids, rows.ids]), np.concatenate([labels, rows.labels])
        epochs = np.concatenate([epochs, row_epochs])
        images += rows.images
        while len(images) >= size:
            yield EncodedRows(ids[:size], labels[:size], images[:size]), epochs[:size]
            ids, labels, epochs, images = ids[size:], labels[size:], epochs[size:], images[size:]
    if images:
        yield EncodedRows(ids, labels, images), epochs


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"found rank {rank} of {world_size} workers; expected 0 to {world_size - 1}")


def _check_rows(rows: int, available: int, shards_uri: str, split: Split) -> None:
    if not 1 <= rows <= available:
        raise ValueError(f"found {rows} rows of the {split} split at {shards_uri!r}; expected 1 to {available}")
