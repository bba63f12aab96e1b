"""The one directory or URL that holds records, checkpoints, data and reports.

Layout: `records/ID.json`, `checkpoints/ID/...`, `checkpoints/ID/failure.json`, `data/NAME/...`, `search/journal.log`,
`calibrations/HARDWARE.json`, `lease/CLAIM.json`, `reports/STUDY.html`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
from pyarrow import fs
from pydantic import TypeAdapter

from datasets.disk import DiskError, writing
from datasets.filesystem import open_filesystem, write_whole
from datasets.object_store import UnusableError, explained, patiently
from datasets.typed_files import MOST_BYTES, BadFileError, parsed, read_bounded, read_parsed
from datasets.urls import absolute, is_local

T = TypeVar("T")
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


class Storage:
    """Files below one root, which is a local folder (`./runs`) or a URL that pyarrow reads (`s3://bucket/runs`).

    Folders appear when something is written; reading from an absent root finds nothing. `root` is the absolute path
    or the URL, and `Storage(storage.root)` is the same storage in another process.

    An object store that does not answer is asked again for `patience` seconds after the first request that its client
    has given up, which takes 30 to 70 seconds by itself; then every method raises StorageError.

    Raises ValueError where the root or one of its parents is a file, or where the URL is of an unknown kind.
    """

    def __init__(self, uri_or_path: str, patience: float = 0.0) -> None:
        self.patience = patience
        try:
            self._prefix = absolute(uri_or_path)
            self.filesystem, self._base = open_filesystem(self._prefix)
        except ValueError as error:
            raise ValueError(f"cannot use the storage: {error}") from error
        self.is_local = is_local(self._prefix)
        if self.is_local:
            _check_no_file_in_the_way(Path(self._base))

    @property
    def root(self) -> str:
        return self._prefix

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def path(self, *parts: str) -> str:
        """Path of a file inside `filesystem`. Raises ValueError for a part that would leave the storage."""
        return "/".join([self._base, *_checked(parts)])

    def uri(self, *parts: str) -> str:
        """Absolute path (local) or URL of a file, for messages and for other libraries."""
        return "/".join([self._prefix, *_checked(parts)])

    def read_bytes(self, *parts: str, most: int = MOST_BYTES) -> bytes:
        """Content of a file. Raises FileNotFoundError when it is absent, ValueError above `most` bytes."""
        path, uri = self.path(*parts), self.uri(*parts)
        try:
            return self._ask(lambda: read_bounded(self.filesystem, path, most))
        except ValueError as error:
            raise BadFileError(uri, str(error)) from None

    def read_typed(self, kind: TypeAdapter[T], *parts: str, most: int = MOST_BYTES) -> T:
        """What a JSON file holds, that others may be replacing or deleting in this moment.

        Raises FileNotFoundError when it is absent, and `BadFileError`, a ValueError, when it is of another kind.
        """
        path, uri = self.path(*parts), self.uri(*parts)
        parse = functools.partial(parsed, kind)
        patience, root = self.patience, self.root
        return read_parsed(parse, self.filesystem, path, uri, most=most, patience=patience, storage=root)

    def read_json(self, *parts: str) -> Any:
        """What a small JSON file holds, of whatever kind; see `read_typed`."""
        return self.read_typed(ANYTHING, *parts)

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a file as a whole or not at all: no reader and no crash ever sees half of it.

        On a local disk the bytes go to a temporary name in the same folder, to the disk, and are then moved; on an
        object store a put is atomic by itself.
        """
        path = self.path(*parts)
        self._ask(lambda: write_whole(self.filesystem, path, content))

    def exists(self, *parts: str) -> bool:
        return bool(self._type(*parts) != fs.FileType.NotFound)

    def list(self, *parts: str) -> builtins.list[str]:
        """Sorted names of the files and folders in a folder, without unfinished writes; [] when it is absent."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        names = (info.base_name for info in self._ask(lambda: self.filesystem.get_file_info(selector)))
        return sorted(name for name in names if not name.startswith("."))

    def delete(self, *parts: str) -> None:
        """Delete a file, or a folder with everything in it; nothing happens when it is absent."""
        assert parts, "the root itself is never deleted"
        path, kind = self.path(*parts), self._type(*parts)
        with contextlib.suppress(FileNotFoundError), writing(self.filesystem, path):  # another process was faster
            if kind == fs.FileType.Directory:
                self._ask(lambda: self.filesystem.delete_dir(path))
            elif kind != fs.FileType.NotFound:
                self._ask(lambda: self.filesystem.delete_file(path))

    def check_readable(self) -> None:
        """List the root, so that a wrong bucket or credentials are found before anything else. Raises ValueError."""
        try:
            self.list()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot read the storage {self.root}: {explained(error)}") from error

    def check_writable(self) -> None:
        """Write and delete a small file, so that a study fails before it has cost anything.

        Raises DiskError for a disk that is full, read-only or broken, ValueError for what is wrong otherwise.
        """
        name = f"write-check-{uuid.uuid4().hex}"
        try:
            self.write_bytes(b"ok", name)
            self.delete(name)
        except DiskError:
            raise
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot write to the storage {self.root}: {explained(error)}") from error

    def check_there(self) -> None:
        """Find out whether a bucket is gone, in which every file seems to be absent. Raises UnusableError."""
        if self.is_local:
            return
        bucket = self._base.partition("/")[0]
        if self._ask(lambda: self.filesystem.get_file_info(bucket).type) == fs.FileType.NotFound:
            raise UnusableError(f"there is no bucket {bucket!r} any more; create it anew, then launch again")

    def _type(self, *parts: str) -> fs.FileType:
        path = self.path(*parts)
        return self._ask(lambda: self.filesystem.get_file_info(path).type)

    def _ask(self, request: Callable[[], T]) -> T:
        return patiently(self.filesystem, request, self.root, self.patience)


def _check_no_file_in_the_way(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(
            f"the storage {folder} needs a folder where there is a file: {nearest}. "
            "Choose another storage, or move that file"
        )


def _checked(parts: tuple[str, ...]) -> list[str]:
    names = [name for part in parts for name in part.split("/")]
    for name in names:
        if name in ("", ".", ".."):
            raise ValueError(
                f"{'/'.join(parts)!r} is not a path inside the storage: expected names joined by single slashes"
            )
    return names
