"""Parquet files that nobody has checked, read in a child process: a damaged one may end the process that reads it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from datasets.isolated import CrashError, Isolated

ERROR = b"E"
CRASHED = "its reader"


@dataclass(frozen=True)
class ParquetMetadata:
    """What the end of a Parquet file says: its schema, and the rows and bytes of images of every row group."""

    schema: pa.Schema
    group_rows: list[int]
    group_image_bytes: list[int]

    @property
    def rows(self) -> int:
        """The number of rows of the file."""
        return sum(self.group_rows)


def read_metadata(uri: str, name: str) -> ParquetMetadata:
    """Read the schema and row groups of the file `name` in the folder `uri`.

    Raises ValueError, which names the file, for one that is damaged, encrypted, or no Parquet file.
    """
    numbers, schema = _ask("metadata", uri, name)
    groups = json.loads(numbers)["groups"]
    return ParquetMetadata(
        pa.ipc.read_schema(pa.py_buffer(schema)), [rows for rows, _ in groups], [size for _, size in groups]
    )


def read_columns(uri: str, name: str, columns: Sequence[str]) -> pa.Table:
    """Read whole columns of a file. Raises ValueError as `read_metadata` does."""
    (table,) = _ask("columns", uri, name, *columns)
    return pa.ipc.open_stream(table).read_all()


def read_images(uri: str, name: str, group: int) -> Iterator[pa.ChunkedArray]:
    """Yield the images of one row group as binary arrays of at most about 64 MiB; a missing one is empty.

    `image` may be binary or a struct with a binary `bytes`. Raises ValueError as `read_metadata` does, perhaps after
    some images.
    """
    for part in _ask("images", uri, name, str(group)):
        yield pa.ipc.open_stream(part).read_all()["image"]


def _ask(kind: str, uri: str, name: str, *arguments: str) -> Iterator[bytes]:
    request = [part.encode() for part in (kind, uri, name, *arguments)]
    try:
        for frame in process().call(request):
            if frame.startswith(ERROR):
                raise ValueError(_cannot_read(uri, name, frame[1:].decode()))
            yield frame[1:]
    except CrashError as crash:
        raise ValueError(_cannot_read(uri, name, f"{CRASHED} {crash}")) from crash


def _cannot_read(uri: str, name: str, cause: str) -> str:
    return f"cannot read the Parquet file {uri}/{name}: {cause}; restore or remove it"


@functools.cache
def process() -> Isolated:
    """The process of this process that reads Parquet files."""
    return Isolated("datasets.parquet_reading", "answer")
