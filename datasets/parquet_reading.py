"""The child's side of `parquet_file`: what reads a Parquet file where a crash is survived; without torch and ray."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.filesystem import open_filesystem

BATCH_ROWS = 1024  # handed on at a time, because row groups of other programs can be gigabytes
BATCH_BYTES = 64 * 2**20
MESSAGE = 300  # characters of what pyarrow says
DATA, ERROR = b"D", b"E"  # the first byte of every frame


def answer(request: list[bytes]) -> Iterable[bytes]:
    """Answer one request: what is wanted, the folder's URI and the file's name, and then what it needs, all as UTF-8.

    `metadata`: a JSON object with the numbers of rows and the bytes of images of each row group, then the schema.
    `columns` NAME...: an Arrow stream of a table. `images` GROUP: Arrow streams of a row group's images, as binary.
    Whatever is wrong becomes a frame that begins with ERROR.
    """
    kind, uri, name, *arguments = (part.decode() for part in request)
    try:
        filesystem, path = open_filesystem(uri)
        with filesystem.open_input_file(f"{path}/{name}") as stream:
            file = pq.ParquetFile(stream)
            if kind == "metadata":
                frames: Iterator[bytes] = _metadata(file)
            elif kind == "columns":
                frames = _columns(file, arguments)
            else:
                assert kind == "images", kind
                frames = _images(file, int(arguments[0]))
            for frame in frames:
                yield DATA + frame
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises anything over a damaged file
        yield ERROR + " ".join(str(error).split())[:MESSAGE].encode(errors="replace")


def _metadata(file: pq.ParquetFile) -> Iterator[bytes]:
    groups = [_group(file.metadata.row_group(index)) for index in range(file.metadata.num_row_groups)]
    if any(rows < 0 for rows, _ in groups) or sum(rows for rows, _ in groups) != file.metadata.num_rows:
        raise ValueError(
            f"its row groups have {[rows for rows, _ in groups][:10]} rows, the file {file.metadata.num_rows}"
        )
    yield json.dumps({"rows": file.metadata.num_rows, "groups": groups}).encode()
    yield file.schema_arrow.serialize().to_pybytes()


def _group(group: Any) -> tuple[int, int]:
    """Return the number of rows of a row group, and the uncompressed size of its images in bytes."""
    columns = [group.column(number) for number in range(group.num_columns)]
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.startswith("image"))
    return group.num_rows, size


def _columns(file: pq.ParquetFile, names: list[str]) -> Iterator[bytes]:
    table = file.read(columns=names, use_threads=False)
    table.validate(full=True)
    if table.num_rows != file.metadata.num_rows:
        raise ValueError(f"it holds {table.num_rows} rows, and says that it has {file.metadata.num_rows}")
    yield _stream(table)


def _images(file: pq.ParquetFile, index: int) -> Iterator[bytes]:
    rows, size = _group(file.metadata.row_group(index))
    count = max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))
    found = 0
    for batch in file.iter_batches(batch_size=count, row_groups=[index], columns=["image"], use_threads=False):
        batch.validate(full=True)
        image = batch.column("image")
        binary = pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
        yield _stream(pa.table({"image": binary.cast(pa.binary()).fill_null(b"")}))
        found += len(batch)
    if found != rows:
        raise ValueError(f"its row group {index} holds {found} rows, and says that it has {rows}")


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
