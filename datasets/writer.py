"""Writing one shard, in a Ray task: read, have decoded once, hash and write its images."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.checksums import checksums_of
from datasets.disk import DiskError, writing
from datasets.examine import MAX_BYTES, examined, process
from datasets.filesystem import open_filesystem
from datasets.object_store import UnusableError
from datasets.schema import SCHEMA, Split
from datasets.splits import label_hash
from datasets.threads import ordered_map

THREADS = 2  # one hashes while the other waits for its file
AHEAD = 64  # images read while others are decoded
NAMED = 10  # unreadable and doubtful images that are named
Image = tuple[bytes, bytes, int, int, str, str]  # data, digest, height, width, error, doubt


@dataclass(frozen=True)
class ShardPlan:
    """How one split is cut into shards: everything that a writing task needs besides its rows."""

    split: Split
    destination: str  # absolute
    rows_per_shard: int
    row_group_rows: int
    compression: str
    suffix: str  # of the files until all are finished


def shard_name(split: Split, start: int) -> str:
    """Return the name of the shard whose first row has position `start`."""
    return f"{split}-{start:010d}.parquet"


def write_shard(plan: ShardPlan, block: pa.Table, rows: pa.Table) -> pa.Table:
    """Have one shard's images decoded, and write it; return one row of what was found, or none for an empty block.

    `block`: position and name of consecutive rows, with `image` (and perhaps `error`) or the `path` to read it from.
    `rows`: id, label and label_rank of the whole split. When an image is unreadable nothing is written and the row
    names the first ones in `unreadable`. A file that cannot be read or written gives a row with nothing but `error`,
    because an exception would reach the driver as one of Ray's, without its cause.
    """
    if not block.num_rows:
        return FOUND.empty_table()
    try:
        found = _write_images(plan, block, rows)
    except (ValueError, OSError) as error:
        found = {"error": str(error), "disk": isinstance(error, DiskError)}
    return pa.Table.from_pylist([found], schema=FOUND)


def _write_images(plan: ShardPlan, block: pa.Table, rows: pa.Table) -> dict[str, Any]:
    if "error" in block.column_names and (errors := block["error"].drop_null().to_pylist()):
        raise ValueError(errors[0])
    positions = block["position"].to_numpy()
    start, count = int(positions[0]), len(positions)
    full = min(plan.rows_per_shard, rows.num_rows - start)
    assert start % plan.rows_per_shard == 0 and count == full and positions[-1] == start + count - 1, "not one shard"
    rows = rows.slice(start, count)
    images = _read_images(block, rows)
    named = list(zip(block["name"].to_pylist(), images, strict=True))
    unreadable = [f"{name} ({image[4]})" for name, image in named if image[4]]
    doubtful = [f"{name} ({image[5]})" for name, image in named if image[5]]
    heights, widths = np.array([image[2] for image in images]), np.array([image[3] for image in images])
    found = {
        "split": plan.split,
        "name": shard_name(plan.split, start),
        "rows": count,
        "first_position": start,
        "first_label_rank": rows["label_rank"][0].as_py(),
        "labels_sha256": label_hash(rows["id"].to_numpy(), rows["label"].fill_null(-1).to_numpy()),
        "image_bytes": sum(len(image[0]) for image in images),
        "digests": b"".join(image[1] for image in images),
        "min_height": int(heights.min()),
        "max_height": int(heights.max()),
        "min_width": int(widths.min()),
        "max_width": int(widths.max()),
        "pixels": int((heights * widths).sum()),
        "unreadable": unreadable[:NAMED],
        "unreadable_count": len(unreadable),
        "doubtful": doubtful[:NAMED],
        "doubtful_count": len(doubtful),
        "bytes": 0,
        "sha256": "",
    }
    if not unreadable:
        data = pa.array([image[0] for image in images], pa.binary())
        columns = {"id": rows["id"], "image": data, "label": rows["label"], "label_rank": rows["label_rank"]}
        file = _encode(plan, pa.table(columns, schema=SCHEMA))
        _write(f"{plan.destination}/{found['name']}{plan.suffix}", file)
        sha256, checksums = hashlib.sha256(file).hexdigest(), checksums_of(file).model_dump()
        found |= {"bytes": file.size, "sha256": sha256, "checksums": checksums}
    return found


CHECKSUMS = pa.struct(
    [
        ("footer_bytes", pa.int64()),
        ("footer", pa.string()),
        ("images", pa.list_(pa.string())),
        ("others", pa.list_(pa.string())),
    ]
)
FOUND = pa.schema(
    [
        ("split", pa.string()),
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("first_position", pa.int64()),
        ("first_label_rank", pa.float64()),
        ("labels_sha256", pa.string()),
        ("image_bytes", pa.int64()),
        ("digests", pa.binary()),
        ("min_height", pa.int64()),
        ("max_height", pa.int64()),
        ("min_width", pa.int64()),
        ("max_width", pa.int64()),
        ("pixels", pa.int64()),
        ("unreadable", pa.list_(pa.string())),
        ("unreadable_count", pa.int64()),
        ("doubtful", pa.list_(pa.string())),
        ("doubtful_count", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("checksums", CHECKSUMS),
        ("error", pa.string()),
        ("disk", pa.bool_()),  # whether it is a full or read-only disk's
    ]
)


def _read_images(block: pa.Table, rows: pa.Table) -> list[Image]:
    process().start()
    ids, labels, ranks = (rows[column].to_pylist() for column in ("id", "label", "label_rank"))
    sources: Iterable[pa.Scalar] = block["path"] if "path" in block.column_names else block["image"]
    read: list[tuple[bytes, bytes]] = []

    def read_one(item: tuple[pa.Scalar, int, int | None, float | None]) -> tuple[bytes, bytes]:
        source, number, label, rank = item
        data = _file_bytes(source.as_py()) if isinstance(source, pa.StringScalar) else source.as_py()
        return data, hashlib.sha256(image_header(number, label, rank) + data).digest()

    def contents(pool: ThreadPoolExecutor) -> Iterator[bytes]:
        items = zip(sources, ids, labels, ranks, strict=True)
        is_here = "image" in block.column_names
        for data, digest in map(read_one, items) if is_here else ordered_map(pool, read_one, items, ahead=AHEAD):
            read.append((data, digest))
            yield data

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(examined(contents(pool)))
    return [(data, digest, *sizes) for (data, digest), sizes in zip(read, found, strict=True)]


def image_header(number: int, label: int | None, rank: float | None) -> bytes:
    """Return id, label and label rank as bytes, little-endian, with -1 for what is missing: hashed before the image."""
    return struct.pack("<qid", number, -1 if label is None else label, -1.0 if rank is None else rank)


def _file_bytes(uri: str) -> bytes:
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        if file.size() > MAX_BYTES:
            raise ValueError(f"{uri} has {file.size():,} bytes; expected an image of at most {MAX_BYTES:,}")
        return bytes(file.read())


def _encode(plan: ShardPlan, table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=plan.row_group_rows,
        compression={"id": "zstd", "image": plan.compression, "label": "zstd", "label_rank": "zstd"},
        use_dictionary=["label"],  # encoded images never repeat
        write_statistics=["id", "label", "label_rank"],
    )
    return sink.getvalue()


def _write(uri: str, data: pa.Buffer) -> None:
    filesystem, path = open_filesystem(uri)
    try:
        with (
            writing(filesystem, path, data.size),
            filesystem.open_output_stream(path, compression=None) as stream,
        ):
            stream.write(data)
    except UnusableError:
        raise
    except OSError as error:
        raise OSError(f"cannot write {uri}: {error}; make room or name another destination, and shard again") from error
