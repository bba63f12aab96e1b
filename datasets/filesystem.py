"""Local paths and URIs behind one interface."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

S3_ATTEMPTS = 8
"""A request to S3 that is throttled or cut off is made so often, after pauses that double, before it is an error."""

OUTAGE_SECONDS = 600.0
"""A trial waits so long for an object store that does not answer, beyond its client's own attempts, which take 30 to 70
seconds: longer than stores are away in most of their outages, and shorter than torch lets ranks wait for each other."""

PAUSE_SECONDS = 5.0
"""The pause before it asks again."""

REFUSALS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""What an object store answers when asking again is of no use."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


def absolute(uri: str) -> str:
    """Return a URI as it is and a local path resolved: worker processes have other working directories.

    Raises ValueError for an empty string.
    """
    if not uri:
        raise ValueError("found an empty path; give a folder or a URI such as s3://bucket/folder")
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def is_local(uri: str) -> bool:
    """Return whether `uri` is a local path rather than a URI."""
    return "://" not in uri


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI and the path within it.

    Raises ValueError for a URI that pyarrow does not know.
    """
    if is_local(uri):
        return fs.LocalFileSystem(), absolute(uri)
    try:
        if uri.startswith("s3://") and not set("?@") & set(uri):  # options in the URI are pyarrow's business
            path = uri.removeprefix("s3://")
            return _s3(path.partition("/")[0], _s3_endpoint()), path.rstrip("/")
        return _from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"cannot open {uri!r}: {error}; expected a local path or a URI such as s3://bucket/folder"
        ) from error


@functools.lru_cache(maxsize=16)
def _from_uri(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path


def _s3_endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@functools.lru_cache(maxsize=16)
def _s3(bucket: str, endpoint: str) -> fs.FileSystem:
    """A client for one bucket; `from_uri` finds the bucket's region, but its client gives up at the first 503."""
    region = fs.FileSystem.from_uri(f"s3://{bucket}")[0].region
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        allow_delayed_open=True,  # a small file is one request instead of the three of a multipart upload
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


def patiently(filesystem: fs.FileSystem, request: Callable[[], T]) -> T:
    """What a request to a file system returns, made again while an object store does not answer, for `OUTAGE_SECONDS`.

    pyarrow raises a plain OSError where an object store does not answer or refuses; that there is no such file, say, is
    an answer, and a subclass of it.
    """
    given_up_at: float | None = None
    while True:
        try:
            return request()
        except OSError as error:
            final = type(error) is not OSError or any(word in str(error) for word in REFUSALS)
            now = time.monotonic()
            given_up_at = now + OUTAGE_SECONDS if given_up_at is None else given_up_at
            if final or isinstance(filesystem, fs.LocalFileSystem) or now >= given_up_at:
                raise
            logger.warning("an object store does not answer, and is asked again: %s", error)
            time.sleep(PAUSE_SECONDS)


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
