"""Parquet files with an image and a label column, as the Hugging Face hub stores image data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data import Dataset
from ray.data.context import ShuffleStrategy

from datasets.filesystem import open_filesystem
from datasets.images import Rows, Source

READ_ROWS = 1024  # rows handed on at a time, because row groups of other programs can be gigabytes
TEST_PREFIXES = (("test",), ("validation", "val"))
SORT_CPUS = 0.5


@dataclass(frozen=True)
class ParquetImages:
    """Row groups of Parquet files below `uri`, laid end to end: ids count their rows."""

    uri: str
    groups: list[tuple[str, int, int, int]]  # file name, row group, id of its first row, rows
    mean_image_bytes: float

    def mean_bytes(self, ids: NDArray[np.int64]) -> float:
        """See `images.Images`; from the uncompressed sizes of the columns, over all files."""
        return self.mean_image_bytes

    def blocks(self, ids: NDArray[np.int64], rows_per_block: int) -> Dataset:
        """See `images.Images`: read where they lie, then sorted by position across machines."""
        _, _, first, rows = self.groups[-1]
        positions = np.full(first + rows, -1, np.int64)
        positions[ids] = np.arange(len(ids))
        wanted = [group for group in self.groups if (positions[group[2] : group[2] + group[3]] >= 0).any()]
        shared = ray.put(positions)

        def read(block: pa.Table) -> Iterator[pa.Table]:
            for number in block["group"].to_pylist():
                yield from _read(self.uri, wanted[number], ray.get(shared))

        groups = ray.data.from_arrow([pa.table({"group": [number]}) for number in range(len(wanted))])
        # Ray Data's other strategies start processes of their own for each sort, which takes seconds.
        groups.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
        boundaries = [*range(rows_per_block, len(ids), rows_per_block), len(ids)]
        read_blocks = groups.map_batches(read, batch_size=None, batch_format="pyarrow", num_cpus=SORT_CPUS)
        return read_blocks.sort("position", boundaries=boundaries)


def _read(uri: str, group: tuple[str, int, int, int], positions: NDArray[np.int64]) -> Iterator[pa.Table]:
    name, index, first, _ = group
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(f"{path}/{name}") as stream:
        file = pq.ParquetFile(stream)
        for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[index], columns=["image"]):
            ids = np.arange(first, first + len(batch))
            first += len(batch)
            image = batch.column("image")
            binary = pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
            names = [f"{name} (image {number})" for number in ids]
            table = pa.table(
                {
                    "position": positions[ids],
                    "name": pa.array(names, pa.string()),
                    "image": pc.fill_null(binary.cast(pa.binary()), b""),
                }
            )
            yield table.filter(pa.array(positions[ids] >= 0))


def parquet_signature(uri: str, names: list[str], files: dict[str, int]) -> str:
    """Return a sha256 over the names, sizes and row counts of the files used."""
    filesystem, path = open_filesystem(uri)
    rows = [pq.read_metadata(f"{path}/{name}", filesystem=filesystem).num_rows for name in names]
    listing = "".join(f"{name}\0{files[name]}\0{count}\n" for name, count in zip(names, rows, strict=True))
    return "parquet-" + hashlib.sha256(listing.encode()).hexdigest()


@dataclass(frozen=True)
class _Table:
    """The files of one split, read without images: labels (n,) as stored, with the names of integer labels."""

    names: list[str]
    labels: pa.ChunkedArray
    class_names: dict[int | str, str]


def split_names(files: dict[str, int], source: str) -> tuple[list[str], list[list[str]]]:
    """Return the training files, and the groups of files that may be the test split, in order of preference.

    Raises ValueError when one of them is missing.
    """
    parquet = [name for name in files if name.endswith(".parquet")]
    train = [name for name in parquet if name.startswith("train")]
    tests = [[name for name in parquet if name.startswith(prefixes)] for prefixes in TEST_PREFIXES]
    tests = [names for names in tests if names]
    if not train or not tests:
        raise ValueError(
            f"found the Parquet files {', '.join(parquet[:10])} in {source!r}; expected train*.parquet and "
            "test*.parquet (or validation*.parquet, val*.parquet)"
        )
    return train, tests


def open_parquet(source: str, uri: str, files: dict[str, int]) -> Source:
    """List a folder of Parquet files by reading their labels; `files` are its relative paths and sizes in bytes.

    `train*.parquet` hold the training rows; `test*.parquet` the test rows, or `validation*`/`val*` where there is no
    test file or it has no labels. Column `image`: binary, or a struct with `bytes`. Column `label`: integers or
    strings, null or -1 = unlabelled. Integer labels are named by the Hugging Face metadata or a column `label_name`,
    else by themselves.

    Raises ValueError for missing files or columns, unlabelled test rows, and test classes that training lacks.
    """
    train_names, candidates = split_names(files, source)
    train = _read_labels(source, uri, train_names)
    tests = [_read_labels(source, uri, names) for names in candidates]
    labelled = [test for test in tests if len(_known(test.labels))]
    if not labelled:
        raise ValueError(
            f"the test rows of {source!r} ({', '.join(tests[0].names[:10])}) have no labels; they are needed to test"
        )
    test = labelled[0]
    values = sorted(_known(train.labels))
    if extra := sorted(_known(test.labels) - set(values)):
        raise ValueError(f"the test rows of {source!r} have labels {extra[:10]} that the training rows lack")
    index = {value: number for number, value in enumerate(values)}
    train_labels, test_labels = _numbered(train.labels, index), _numbered(test.labels, index)
    if missing := int(np.count_nonzero(test_labels < 0)):
        raise ValueError(f"{missing} test rows of {source!r} have no label; remove them or label them")
    used = [*train_names, *(name for names in candidates for name in names)]
    groups, mean_bytes = _groups(uri, [*train.names, *test.names])
    ids = np.arange(len(train_labels) + len(test_labels))
    return Source(
        name=source,
        signature=parquet_signature(uri, used, files),
        classes=tuple(train.class_names.get(value, str(value)) for value in values),
        train=Rows(ids[: len(train_labels)], train_labels),
        test=Rows(ids[len(train_labels) :], test_labels),
        images=ParquetImages(uri, groups, mean_bytes),
    )


def _known(labels: pa.ChunkedArray) -> set[int | str]:
    return {value for value in pc.unique(labels).to_pylist() if value is not None and value != -1}


def _numbered(labels: pa.ChunkedArray, index: dict[int | str, int]) -> NDArray[np.int32]:
    found = pc.index_in(labels, pa.array(list(index), labels.type))
    return np.asarray(pc.fill_null(found, -1), np.int32)


def _read_labels(source: str, uri: str, names: list[str]) -> _Table:
    filesystem, path = open_filesystem(uri)
    labels: list[pa.ChunkedArray] = []
    class_names: dict[int | str, str] = {}
    for name in names:
        schema = pq.read_schema(f"{path}/{name}", filesystem=filesystem)
        for column in ("image", "label"):
            if column not in schema.names:
                raise ValueError(
                    f"{name} in {source!r} has the columns {', '.join(schema.names)}; expected `image` and `label`"
                )
        columns = ["label", "label_name"] if "label_name" in schema.names else ["label"]
        table = pq.read_table(f"{path}/{name}", columns=columns, filesystem=filesystem)
        column_type = pa.int64() if pa.types.is_integer(schema.field("label").type) else pa.string()
        labels.append(table["label"].cast(column_type))
        class_names |= _class_names(schema, table)
    if len({column.type for column in labels}) > 1:
        raise ValueError(
            f"the labels of {', '.join(names[:10])} in {source!r} are integers in some files and strings in others"
        )
    return _Table(names, pa.chunked_array([chunk for column in labels for chunk in column.chunks]), class_names)


def _class_names(schema: pa.Schema, table: pa.Table) -> dict[int | str, str]:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names:
        return dict(enumerate(names))
    if "label_name" not in table.column_names:
        return {}
    pairs = table.select(["label", "label_name"]).set_column(1, "label_name", table["label_name"].cast(pa.string()))
    return {
        row["label"]: row["label_name"] for row in pairs.group_by(["label", "label_name"]).aggregate([]).to_pylist()
    }


def _groups(uri: str, names: list[str]) -> tuple[list[tuple[str, int, int, int]], float]:
    filesystem, path = open_filesystem(uri)
    groups, first, size = [], 0, 0
    for name in names:
        metadata = pq.read_metadata(f"{path}/{name}", filesystem=filesystem)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            groups.append((name, index, first, group.num_rows))
            first += group.num_rows
            columns = [group.column(number) for number in range(group.num_columns)]
            size += sum(
                column.total_uncompressed_size for column in columns if column.path_in_schema.startswith("image")
            )
    return groups, size / max(1, first)
