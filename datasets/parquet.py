"""Parquet files with an image and a label column, as the Hugging Face hub stores image data sets."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import Dataset
from ray.data.context import ShuffleStrategy

from datasets.blocks import map_blocks
from datasets.hub_metadata import hub_class_names
from datasets.images import Rows, Source
from datasets.parquet_file import ParquetMetadata, read_columns, read_images, read_metadata

TEST_PREFIXES = (("test",), ("validation", "val"))
MISSING_WORDS = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
SORT_CPUS = 0.5
EXPECTED = {
    "image": "binary, or a struct with a binary field `bytes`",
    "label": "integers, whole-number floats, booleans or strings",
    "label_name": "strings",
}

logger = logging.getLogger(__name__)


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
        return map_blocks(groups, read, SORT_CPUS).sort("position", boundaries=boundaries)


def _read(uri: str, group: tuple[str, int, int, int], positions: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield the wanted rows of a row group; those that cannot be read carry an `error` instead of raising it.

    Ray would hide the message of an exception.
    """
    name, index, first, rows = group
    stop = first + rows
    try:
        for images in read_images(uri, name, index):
            yield _block(name, np.arange(first, first + len(images)), positions, images, None)
            first += len(images)
    except ValueError as error:
        nothing = pa.array([b""] * (stop - first), pa.binary())
        yield _block(name, np.arange(first, stop), positions, nothing, str(error))


def _block(
    name: str, ids: NDArray[np.int64], positions: NDArray[np.int64], images: pa.Array, error: str | None
) -> pa.Table:
    columns = {
        "position": positions[ids],
        "name": pa.array([f"{name} (image {number})" for number in ids], pa.string()),
        "image": images,
        "error": pa.array([error] * len(ids), pa.string()),
    }
    return pa.table(columns).filter(pa.array(positions[ids] >= 0))


@contextlib.contextmanager
def _naming(uri: str, name: str) -> Iterator[None]:
    """Name the file in what pyarrow says about its values."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())  # it may have several lines
        raise ValueError(f"cannot read the Parquet file {uri}/{name}: {cause}; restore or remove it") from error


def _check_schema(source: str, name: str, schema: pa.Schema) -> None:
    """Refuse a file whose columns have types that cannot be read."""
    for column in ("image", "label"):
        if schema.names.count(column) > 1:
            raise ValueError(f"{name} in {source!r} has several columns `{column}`; rename all but one")
        if column not in schema.names:
            raise ValueError(
                f"{name} in {source!r} has the columns {', '.join(schema.names)}; expected `image` and `label`"
            )
    for column, expected in EXPECTED.items():
        if column in schema.names and not _is_readable(column, schema.field(column).type):
            raise ValueError(
                f"{name} in {source!r} has a column `{column}` of type {schema.field(column).type}; expected {expected}"
            )


def _is_readable(column: str, found: pa.DataType) -> bool:
    types = pa.types
    if column == "image":
        if types.is_struct(found):
            index = found.get_field_index("bytes")
            return index >= 0 and _is_readable("image", found.field(index).type)
        kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
        return any(is_kind(found) for is_kind in kinds)
    if types.is_dictionary(found):
        found = found.value_type
    if any(is_kind(found) for is_kind in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)):
        return True
    numbers = types.is_integer(found) or types.is_floating(found) or types.is_boolean(found)
    return column == "label" and bool(numbers)


def parquet_signature(uri: str, names: list[str], files: dict[str, int]) -> str:
    """Return a sha256 over the names, sizes and row counts of the files used."""
    return _signature({name: read_metadata(uri, name) for name in names}, files)


def _signature(metadata: dict[str, ParquetMetadata], files: dict[str, int]) -> str:
    listing = "".join(f"{name}\0{files[name]}\0{one.rows}\n" for name, one in metadata.items())
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
    test file or it has no labels. Column `image`: binary, or a struct with `bytes`. Column `label`: integers,
    whole-number floats (as pandas makes them of integers beside missing ones), booleans or strings; null, NaN or
    -1 = unlabelled. Integers are named by the Hugging Face metadata or a column `label_name`, else by themselves.

    Raises ValueError for missing or broken files, columns that are missing or of other types, unlabelled test rows,
    and test classes that training lacks.
    """
    train_names, candidates = split_names(files, source)
    used = [*train_names, *(name for names in candidates for name in names)]
    metadata = {name: read_metadata(uri, name) for name in used}
    for name, one in metadata.items():
        _check_schema(source, name, one.schema)
    train = _read_labels(source, uri, train_names, metadata)
    if not len(train.labels):
        raise ValueError(f"the training files of {source!r} ({', '.join(train_names[:10])}) have no rows")
    tests = [_read_labels(source, uri, names, metadata) for names in candidates]
    labelled = [test for test in tests if len(_known(test.labels))]
    if not labelled:
        raise ValueError(
            f"the test rows of {source!r} ({', '.join(tests[0].names[:10])}) have no labels; they are needed to test"
        )
    test = labelled[0]
    values = sorted(_known(train.labels))
    if words := [value for value in values if isinstance(value, str) and value.strip().lower() in MISSING_WORDS]:
        logger.warning(
            "the training rows of %s have classes named %s, as programs write missing labels; make these labels null "
            "if the images have none",
            source,
            ", ".join(repr(word) for word in words),
        )
    if extra := sorted(_known(test.labels) - set(values)):
        raise ValueError(f"the test rows of {source!r} have labels {extra[:10]} that the training rows lack")
    index = {value: number for number, value in enumerate(values)}
    train_labels, test_labels = _numbered(train.labels, index), _numbered(test.labels, index)
    if missing := int(np.count_nonzero(test_labels < 0)):
        raise ValueError(f"{missing} test rows of {source!r} have no label; remove them or label them")
    groups, mean_bytes = _groups({name: metadata[name] for name in [*train.names, *test.names]})
    ids = np.arange(len(train_labels) + len(test_labels))
    return Source(
        name=source,
        signature=_signature(metadata, files),
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


def _read_labels(source: str, uri: str, names: list[str], metadata: dict[str, ParquetMetadata]) -> _Table:
    columns: list[pa.ChunkedArray] = []
    class_names: dict[int | str, str] = {}
    for name in names:
        schema = metadata[name].schema
        table = read_columns(uri, name, [column for column in ("label", "label_name") if column in schema.names])
        with _naming(uri, name):
            labels = _plain_labels(f"{name} in {source!r}", table["label"])
            class_names |= _class_names(f"{name} in {source!r}", schema, labels, table)
        columns.append(labels)
    types = {column.type for column in columns if column.null_count < len(column)}  # a file may lack any label
    if len(types) > 1:
        raise ValueError(
            f"the labels of {', '.join(names[:10])} in {source!r} are integers in some files and strings in others"
        )
    label_type = types.pop() if types else pa.int64()
    chunks = [chunk for column in columns for chunk in column.cast(label_type).chunks]
    return _Table(names, pa.chunked_array(chunks, label_type), class_names)


def _plain_labels(where: str, labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return labels as int64 or strings."""
    if pa.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    if pa.types.is_floating(labels.type):
        labels = labels.cast(pa.float64())
        labels = pc.if_else(pc.is_nan(labels), pa.scalar(None, pa.float64()), labels)
        is_whole = pc.and_(pc.is_finite(labels), pc.equal(labels, pc.floor(labels)))
        if broken := pc.unique(labels.filter(pc.invert(is_whole))).to_pylist():
            raise ValueError(f"{where} has the labels {broken[:10]}; expected whole numbers or strings")
        return labels.cast(pa.int64())
    is_number = pa.types.is_integer(labels.type) or pa.types.is_null(labels.type)
    return labels.cast(pa.int64() if is_number else pa.string())


def _class_names(where: str, schema: pa.Schema, labels: pa.ChunkedArray, table: pa.Table) -> dict[int | str, str]:
    if names := hub_class_names(where, schema):
        return dict(enumerate(names))
    if "label_name" not in table.column_names:
        return {}
    pairs = pa.table({"label": labels, "label_name": table["label_name"].cast(pa.string())})
    return {
        row["label"]: row["label_name"] for row in pairs.group_by(["label", "label_name"]).aggregate([]).to_pylist()
    }


def _groups(files: dict[str, ParquetMetadata]) -> tuple[list[tuple[str, int, int, int]], float]:
    groups, first = [], 0
    for name, metadata in files.items():
        for index, rows in enumerate(metadata.group_rows):
            groups.append((name, index, first, rows))
            first += rows
    return groups, sum(sum(metadata.group_image_bytes) for metadata in files.values()) / max(1, first)
