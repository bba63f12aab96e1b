"""Shards read back as Arrow tables of encoded images, row group by row group, through Ray Data where Ray runs."""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import ray
from numpy.typing import NDArray
from ray.data import DataContext, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import TaskUnschedulableError
from ray.util.annotations import RayDeprecationWarning

from datasets.checksums import DamagedError
from datasets.filesystem import open_filesystem
from datasets.object_store import patiently
from datasets.schema import Manifest, ShardFile, Split
from datasets.threads import ordered_map
from datasets.urls import absolute
from datasets.verified import open_shard

READ_CPUS = 0.05  # trials reserve the rest of the machine's CPUs, and a read mostly waits
READ_TASKS = 2  # at once for each worker: every further one is a further process on its machine
READ_AHEAD = 4  # reads begun ahead without Ray
TASK_RETRIES = 3
TASK_BYTES = 16 * 2**20
RAY_BYTES = 64 * 2**20
"""Less than this is read by the process itself, in less time than Ray Data takes to begin."""

DAMAGED = "damaged"
"""The column of a table that holds no rows but the message of what is wrong with a shard."""

NODE_LABEL = "ray.io/node-id"
"""The label by which Ray itself names each of its nodes."""


@dataclass(frozen=True)
class RowGroup:
    """One row group of a shard: rows `start` to `start + rows` of its split."""

    uri: str
    file: ShardFile
    index: int
    start: int
    rows: int


@dataclass(frozen=True)
class Slice:
    """Rows `first` to `stop` of a row group."""

    group: RowGroup
    first: int
    stop: int


@dataclass(frozen=True)
class EncodedRows:
    """n encoded rows: `ids` int64 (n,), `labels` int64 (n,) with -1 = unlabelled, `images` the binary scalars."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: list[pa.Scalar]

    @classmethod
    def from_table(cls, table: pa.Table) -> EncodedRows:
        """Take the rows of a table with the columns of `schema.SCHEMA`; the image bytes are not copied."""
        labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
        return cls(table["id"].to_numpy(), labels, list(table["image"]))

    def take(self, index: NDArray[np.int64]) -> EncodedRows:
        """Return the rows at `index` (k,)."""
        return EncodedRows(self.ids[index], self.labels[index], [self.images[number] for number in index])


def row_groups(shards_uri: str, manifest: Manifest, split: Split) -> list[RowGroup]:
    """Return the row groups of one split in order of position; reads nothing."""
    uri, size = absolute(shards_uri), manifest.row_group_rows
    return [
        RowGroup(f"{uri}/{file.name}", file, index, file.first_position + first, min(size, file.rows - first))
        for file in manifest.split_files(split)
        for index, first in enumerate(range(0, file.rows, size))
    ]


def read_rows(shards_uri: str, manifest: Manifest, split: Split, start: int, stop: int) -> Iterator[EncodedRows]:
    """Yield rows `start` to `stop` of a split in order, as encoded parts."""
    slices = [
        Slice(group, max(0, start - group.start), min(group.rows, stop - group.start))
        for group in row_groups(shards_uri, manifest, split)
        if group.start < stop and group.start + group.rows > start
    ]
    return map(EncodedRows.from_table, read_slices(slices, manifest.mean_image_bytes))


def read_slices(slices: Sequence[Slice], bytes_per_row: float) -> Iterator[pa.Table]:
    """Yield the slices' rows in order, cut into tables of about TASK_BYTES, by Ray Data where Ray runs and it pays.

    The tables have the columns of `schema.SCHEMA`.
    """
    bundles = _bundles(slices, bytes_per_row)
    if ray.is_initialized() and sum(piece.stop - piece.first for piece in slices) * bytes_per_row >= RAY_BYTES:
        yield from _read_with_ray(bundles)
        return
    yield from _read_here(bundles)


def _read_here(bundles: Sequence[Sequence[Slice]]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        yield from ordered_map(pool, _read_bundle, bundles, ahead=READ_AHEAD)


def _bundles(slices: Sequence[Slice], bytes_per_row: float) -> list[list[Slice]]:
    bundles: list[list[Slice]] = []
    size = 0.0
    for piece in slices:
        if not bundles or size >= TASK_BYTES:
            bundles.append([])
            size = 0.0
        bundles[-1].append(piece)
        size += (piece.stop - piece.first) * bytes_per_row
    return bundles


def _read_bundle(bundle: Sequence[Slice]) -> pa.Table:
    tables: list[pa.Table] = []
    for uri, pieces in itertools.groupby(bundle, key=lambda piece: piece.group.uri):
        filesystem, path = open_filesystem(uri)
        tables += patiently(filesystem, functools.partial(_read_pieces, filesystem, path, list(pieces)), uri)
    return pa.concat_tables(tables)


def _read_pieces(filesystem: pyarrow.fs.FileSystem, path: str, pieces: Sequence[Slice]) -> list[pa.Table]:
    tables, first, groups = [], pieces[0].group, sorted({piece.group.index for piece in pieces})
    with filesystem.open_input_file(path) as stream:
        shard = open_shard(stream, first.uri, first.file, groups, images=True)
        for piece in pieces:
            table = shard.read_row_group(piece.group.index, use_threads=False)
            assert table.num_rows == piece.group.rows, f"{path} does not match its manifest"
            tables.append(table.slice(piece.first, piece.stop - piece.first))
    return tables


def map_blocks(dataset: Dataset, function: Callable[[pa.Table], Any], cpus: float) -> Dataset:
    """Apply a function to whole blocks; a task whose process or node ends is repeated TASK_RETRIES times at most."""
    with warnings.catch_warnings():
        # Ray warns of its free arguments, and has no named one for the number of repeats.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(
            function, batch_size=None, batch_format="pyarrow", num_cpus=cpus, max_retries=TASK_RETRIES
        )


def ordered(dataset: Dataset) -> Dataset:
    """Let a Ray dataset keep its order."""
    dataset.context.execution_options.preserve_order = True
    return dataset


def quiet_ray_data() -> None:
    """Switch Ray Data's progress bars and start-up lines off in this process: one for every epoch of every trial would
    bury the rest."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _BundleSource(Datasource):
    """One Ray Data read task, hence one block, for each bundle: Ray Data's own reader does not keep row groups."""

    def __init__(self, bundles: Sequence[Sequence[Slice]]) -> None:
        self._bundles = bundles

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                functools.partial(_read_block, bundle),
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
            )
            for bundle in self._bundles
        ]


def _read_block(bundle: Sequence[Slice]) -> list[pa.Table]:
    """Read a bundle, or the message of what is wrong with a shard, which Ray would hide among its own."""
    try:
        return [_read_bundle(bundle)]
    except DamagedError as error:
        return [pa.table({DAMAGED: [str(error)]})]


def _read_with_ray(bundles: Sequence[Sequence[Slice]]) -> Iterator[pa.Table]:
    """By tasks on this process's own node. Ray Data would deal them to all nodes, and a cluster gives a node back when
    nothing has run there for some minutes: one training would keep all of them.

    Where Ray starts nothing on this node, which is about to be taken away or has no CPUs, the process reads by itself.
    """
    quiet_ray_data()
    here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    source, tasks = _BundleSource(bundles), min(READ_TASKS, len(bundles))
    dataset = ray.data.read_datasource(
        source, num_cpus=READ_CPUS, concurrency=tasks, override_num_blocks=len(bundles), label_selector=here
    )
    tables: Iterable[Any] = ordered(dataset).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    rows = 0
    try:
        for table in tables:
            if DAMAGED in table.column_names:
                raise DamagedError(table[DAMAGED][0].as_py())
            yield table
            rows += table.num_rows
    except TaskUnschedulableError:
        yield from _read_here(_without_first(bundles, rows))


def _without_first(bundles: Sequence[Sequence[Slice]], rows: int) -> list[list[Slice]]:
    """The bundles without their first rows, which have been read."""
    rest = []
    for bundle in bundles:
        kept = []
        for piece in bundle:
            skipped = min(rows, piece.stop - piece.first)
            rows -= skipped
            if piece.first + skipped < piece.stop:
                kept.append(replace(piece, first=piece.first + skipped))
        if kept:
            rest.append(kept)
    return rest
