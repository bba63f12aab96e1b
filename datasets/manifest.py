"""The manifest beside the shards, and single columns of them; neither torch nor ray is needed to plan with them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from datasets.filesystem import open_filesystem
from datasets.schema import MANIFEST_NAME, Manifest
from datasets.urls import absolute


def has_manifest(shards_uri: str) -> bool:
    """Whether there are complete shards: the manifest is written last."""
    filesystem, path = open_filesystem(absolute(shards_uri))
    return bool(filesystem.get_file_info(f"{path}/{MANIFEST_NAME}").type == pyarrow.fs.FileType.File)


def read_manifest(shards_uri: str) -> Manifest:
    """Read the manifest of a folder of shards and check that its shards are there.

    Raises ValueError when the manifest or shards are missing, incomplete, or of another format.
    """
    uri = absolute(shards_uri)
    filesystem, path = open_filesystem(uri)
    remedy = f"make the shards with `python -m study shard SOURCE {shards_uri}`"
    try:
        with filesystem.open_input_stream(f"{path}/{MANIFEST_NAME}") as stream:
            text = stream.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"there are no shards at {shards_uri!r} ({MANIFEST_NAME} is missing); {remedy}") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValueError as error:
        raise ValueError(
            f"{MANIFEST_NAME} at {shards_uri!r} is not a manifest of this version; delete the folder and {remedy}"
        ) from error
    infos = filesystem.get_file_info([f"{path}/{file.name}" for file in manifest.files])
    broken = [file.name for file, info in zip(manifest.files, infos, strict=True) if info.size != file.bytes]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(infos)} shards at {shards_uri!r} are missing or cut short "
            f"({', '.join(broken[:10])}); delete the folder and {remedy}"
        )
    return manifest


def read_column(shards_uri: str, name: str, column: str) -> pa.ChunkedArray:
    """Read one column of one shard."""
    filesystem, path = open_filesystem(absolute(shards_uri))
    return pq.read_table(f"{path}/{name}", columns=[column], filesystem=filesystem)[column]


def change_times(shards_uri: str, names: list[str]) -> list[int | None]:
    """Return when shards were last written, in nanoseconds; None where a file system does not say."""
    filesystem, path = open_filesystem(absolute(shards_uri))
    return [info.mtime_ns for info in filesystem.get_file_info([f"{path}/{name}" for name in names])]
