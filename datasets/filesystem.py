"""Local paths and URIs behind one interface; `object_store` has what is particular to object stores."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from datasets.disk import writing
from datasets.object_store import azure_client, explained, google_client, s3_client, s3_endpoint
from datasets.urls import absolute, is_local, split_name

NAMED = 10
"""Files that are named where many are wrong."""

ODD_KEY = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URL and the path within it.

    Every character of a URL counts as it is, as in the names of files below a folder that `urls.absolute` has named;
    what a person wrote goes through that function first. Raises ValueError where no client can be made.
    """
    if is_local(uri):
        return fs.LocalFileSystem(), absolute(uri)
    scheme, bucket, key = split_name(uri)
    try:
        if scheme == "s3":
            filesystem, base = s3_client(bucket, s3_endpoint()), bucket
        elif scheme == "gs":
            filesystem, base = google_client(anonymous=bucket.startswith("anonymous@")), bucket.rpartition("@")[2]
        else:
            filesystem, base = azure_client(scheme, bucket)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot use the URL {uri!r}: {explained(error)}") from error
    return filesystem, f"{base}/{key}".strip("/")


def write_whole(filesystem: fs.FileSystem, path: str, content: bytes | memoryview) -> None:
    """Write a file as a whole or not at all: no reader and no crash ever sees half of it.

    On a local disk the bytes go to a hidden name in the same folder, which is made where it is missing, to the disk,
    and are then moved; on an object store a put is atomic by itself.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)
        return
    with writing(filesystem, path, memoryview(content).nbytes):
        _write_and_move(Path(path), content)


def _write_and_move(target: Path, content: bytes | memoryview) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}")  # a name has at most 255 bytes
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

    Raises ValueError when there is no such folder, and for names that cannot be read back.
    """
    filesystem, path = open_filesystem(uri)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive))
        relative = {info.path[len(path.rstrip("/")) + 1 :]: info for info in infos}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{uri!r} is not a folder") from error
    except UnicodeDecodeError:
        raise ValueError(_undecodable(path, recursive=recursive)) from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot list {uri!r}: {explained(error)}") from error
    if not isinstance(filesystem, fs.LocalFileSystem):
        _check_keys(uri, list(relative))
    files = {name: relative[name].size for name in sorted(relative) if relative[name].type == fs.FileType.File}
    return files, sorted(name for name, info in relative.items() if info.type == fs.FileType.Directory)


def _undecodable(path: str, *, recursive: bool) -> str:
    """What to say of a folder with names that are not UTF-8."""
    below = Path(path).rglob("*") if recursive else Path(path).iterdir()
    found = [os.fsencode(one.relative_to(path)) for one in below if not _is_text(one.name)]
    named = ", ".join(repr(name)[1:] for name in found[:NAMED]) + (" and others" if len(found) > NAMED else "")
    return (
        f"the folder {path!r} has names of files or folders that are not UTF-8 ({len(found)}): {named}; rename them, "
        "for example by `convmv -f latin1 -t utf8 -r --notest FOLDER`, which keeps their content"
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_keys(uri: str, keys: list[str]) -> None:
    """Refuse keys that a store lists and then does not find, as they are not what they look like."""
    if odd := [key for key in keys if ODD_KEY.search(key)]:
        raise ValueError(
            f"{len(odd)} keys below {uri!r} have an empty name, . or .. between slashes, or a control character: "
            f"{', '.join(map(ascii, odd[:NAMED]))}; rename or delete them"
        )
