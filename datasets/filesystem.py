"""Local paths and URIs behind one interface; `object_store` has what is particular to object stores."""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from datasets.object_store import s3_client, s3_endpoint


def absolute(uri: str) -> str:
    """Return a URI as it is and a local path resolved: worker processes have other working directories.

    Raises ValueError for an empty string, and for the home of a user whom nobody knows.
    """
    if not uri.strip():
        raise ValueError("found an empty path; expected a folder such as ./runs or a URL such as s3://bucket/runs")
    if not is_local(uri):
        return uri
    try:
        return str(Path(uri).expanduser().resolve())
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"cannot use the path {uri!r}: {error}") from error


def is_local(uri: str) -> bool:
    """Return whether `uri` is a local path rather than a URI."""
    return "://" not in uri


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI and the path within it.

    Raises ValueError for a URI that pyarrow does not know.
    """
    if is_local(uri):
        return fs.LocalFileSystem(), absolute(uri)
    plain = uri.rstrip("/")
    if plain.endswith(":"):
        raise ValueError(f"the URL {uri!r} names no bucket or folder; expected one such as s3://bucket/runs")
    try:
        if plain.startswith("s3://") and not set("?@") & set(plain):  # options in the URI are pyarrow's business
            path = plain.removeprefix("s3://")
            return s3_client(path.partition("/")[0], s3_endpoint()), path
        filesystem, path = _from_uri(plain)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"cannot use the URL {uri!r}: {error}. Expected a local path, file:///..., s3://bucket/..., "
            "gs://bucket/... or abfs://container@account..., and credentials for it"
        ) from error
    return filesystem, path.rstrip("/")


@functools.lru_cache(maxsize=16)
def _from_uri(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path


def write_whole(filesystem: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    """Write a file as a whole or not at all: no reader and no crash ever sees half of it.

    On a local disk the bytes go to a hidden name in the same folder, which is made where it is missing, to the disk,
    and are then moved; on an object store a put is atomic by itself.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the new name on an empty file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)  # on a full disk, half a file would stay


def list_files(uri: str, *, recursive: bool) -> tuple[dict[str, int], list[str]]:
    """Return the files below a folder as relative path -> size in bytes, and its sub-folders, both sorted.

    Raises ValueError when there is no such folder.
    """
    filesystem, path = open_filesystem(uri)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{uri!r} is not a folder") from error
    relative = {info.path[len(path.rstrip("/")) + 1 :]: info for info in infos}
    files = {name: relative[name].size for name in sorted(relative) if relative[name].type == fs.FileType.File}
    return files, sorted(name for name, info in relative.items() if info.type == fs.FileType.Directory)
