"""The one directory or URL that holds records, checkpoints, data and reports.

Layout: `records/ID.json`, `checkpoints/ID/...`, `checkpoints/ID/failure.json`, `data/NAME/...`, `search/journal.log`,
`calibrations/HARDWARE.json`, `lease/CLAIM.json`, `reports/STUDY.html`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
from pyarrow import fs

S3_ATTEMPTS = 8
"""A request to S3 that is throttled or cut off is made so often, after pauses that double, before it is an error."""

REPLACED_READS = 4
"""An object store's file is read in two requests, length and content. Where it was replaced by a longer one between
them, the content is cut short; where it was deleted, the second request fails: it is read again so often."""

REPLACED_SECONDS = 5.0
"""That fails at once; a client gives up a store that does not answer after half a minute."""

PAUSE_SECONDS = 5.0
"""A patient storage asks again after such a pause, beside those that the client makes."""

REFUSALS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""What an object store answers when asking again is of no use."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class StorageError(OSError):
    """An object store does not answer, or refuses; it says nothing of the file that was asked for."""


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
        if not str(uri_or_path).strip():
            raise ValueError(
                "the storage is empty; expected a folder such as './runs' or a URL such as 's3://bucket/runs'"
            )
        if "://" in str(uri_or_path):
            if "?" in str(uri_or_path):
                raise ValueError(
                    f"the storage URL {uri_or_path!r} has options after a question mark, which cannot be extended by "
                    "file names; set them in the environment instead (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION)"
                )
            self.filesystem, self._base = _filesystem_of(str(uri_or_path).rstrip("/"), _s3_endpoint())
            self._prefix = str(uri_or_path).rstrip("/")
        else:
            self.filesystem = fs.LocalFileSystem()
            self._base = _resolved(uri_or_path)
            self._prefix = self._base
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)
        if self.is_local:
            self._prefix = self._base
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

    def read_bytes(self, *parts: str) -> bytes:
        """Content of a file. Raises FileNotFoundError when it is absent."""
        path = self.path(*parts)
        return self._ask(lambda: self._read(path))

    def read_json(self, *parts: str) -> Any:
        """Content of a small JSON file that others may be replacing or deleting in this moment.

        Raises FileNotFoundError when it is absent, which a file that is only replaced never is, and ValueError when it
        is not JSON.
        """
        for _ in range(REPLACED_READS):
            try:
                return json.loads(self.read_bytes(*parts))
            except (FileNotFoundError, StorageError):
                raise
            except (OSError, ValueError):  # cut short, or a handle of the file that was there before
                continue
        return json.loads(self.read_bytes(*parts))

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a file as a whole or not at all: no reader and no crash ever sees half of it.

        On a local disk the bytes go to a temporary name in the same folder, to the disk, and are then moved; on an
        object store a put is atomic by itself.
        """
        if self.is_local:
            _write_and_move(Path(self.path(*parts)), content)
            return
        path = self.path(*parts)

        def write() -> None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)

        self._ask(write)

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
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if kind == fs.FileType.Directory:
                self._ask(lambda: self.filesystem.delete_dir(path))
            elif kind != fs.FileType.NotFound:
                self._ask(lambda: self.filesystem.delete_file(path))

    def check_readable(self) -> None:
        """List the root, so that a wrong bucket or credentials are found before anything else. Raises ValueError."""
        try:
            self.list()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot read the storage {self.root}: {_explained(error)}") from error

    def check_writable(self) -> None:
        """Write and delete a small file, so that a study fails before it has cost anything. Raises ValueError."""
        name = f"write-check-{uuid.uuid4().hex}"
        try:
            self.write_bytes(b"ok", name)
            self.delete(name)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot write to the storage {self.root}: {_explained(error)}") from error

    def _read(self, path: str) -> bytes:
        """Content of a file, read again where it was replaced or deleted between the two requests that this takes."""
        reads = 0
        while True:
            with self.filesystem.open_input_stream(path) as stream:
                asked_at = time.monotonic()
                try:
                    content: bytes = stream.read()
                    return content
                except OSError:
                    reads += 1
                    if reads > REPLACED_READS or time.monotonic() - asked_at > REPLACED_SECONDS:
                        raise

    def _type(self, *parts: str) -> fs.FileType:
        path = self.path(*parts)
        return self._ask(lambda: self.filesystem.get_file_info(path).type)

    def _ask(self, request: Callable[[], T]) -> T:
        """What a request returns, made again while nothing answers.

        pyarrow raises a plain OSError where an object store does not answer or refuses; that there is no such file,
        say, is an answer, and a subclass of it.
        """
        asked_at = time.monotonic()
        given_up_at: float | None = None
        while True:
            try:
                return request()
            except OSError as error:
                if self.is_local or type(error) is not OSError:
                    raise
                if any(word in str(error) for word in REFUSALS):
                    raise StorageError(f"the storage {self.root} refuses: {_explained(error)}") from error
                now = time.monotonic()
                if given_up_at is None:
                    given_up_at = now + self.patience
                if now >= given_up_at:
                    raise StorageError(
                        f"the storage {self.root} has not answered for {now - asked_at:.0f} s; nothing that it holds "
                        f"is lost by that, so try again when it does ({error})"
                    ) from error
                logger.warning("%s does not answer, and is asked again: %s", self.root, error)
                time.sleep(PAUSE_SECONDS)


def _resolved(path: str) -> str:
    try:
        return str(Path(path).expanduser().resolve())
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"cannot use the storage {path!r}: {error}") from error


@functools.lru_cache(maxsize=16)
def _filesystem_of(uri: str, s3_endpoint: str) -> tuple[fs.FileSystem, str]:
    """A client for a storage, made once in a process, and the path of the storage's root in it."""
    if uri.endswith(":"):
        raise ValueError(
            f"the storage URL {uri + '//'!r} names no bucket or folder; expected one such as s3://bucket/runs"
        )
    try:
        filesystem, base = fs.FileSystem.from_uri(uri)
        if uri.startswith("s3://") and "@" not in uri:
            filesystem = _patient_s3(filesystem.region, s3_endpoint)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"cannot use the storage URL {uri!r}: {error}. Expected a local path, file:///..., s3://bucket/..., "
            "gs://bucket/... or abfs://container@account..., and credentials for it"
        ) from error
    return filesystem, base.rstrip("/")


def _s3_endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _patient_s3(region: str, endpoint: str) -> fs.FileSystem:
    """A client that tries again; the one made from a URL gives up at the first 503."""
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        allow_delayed_open=True,  # a record is one put, which is atomic, instead of a multipart upload's three requests
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


def _explained(error: Exception) -> str:
    """An error with what to do about it."""
    cause = error.__cause__ or error
    for word, remedy in (
        ("NO_SUCH_BUCKET", "there is no such bucket; create it, or correct its name"),
        ("ACCESS_DENIED", "these credentials lack a right that a study needs: list, get, put and delete objects"),
        ("NETWORK_CONNECTION", "the server cannot be reached; check the region, AWS_ENDPOINT_URL and the network"),
    ):
        if word in str(cause):
            return f"{remedy} ({cause})"
    if isinstance(error, StorageError):
        return f"it does not answer now; try again when it does ({cause})"
    return (
        f"{error}. Expected a folder or URL that this user may write to; choose another storage, or check its "
        "permissions, free space and credentials"
    )


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


def _write_and_move(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the new name on an empty file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
