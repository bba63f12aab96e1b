"""How an object store is asked: one client for a bucket, and the patience with a store that does not answer."""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

S3_ATTEMPTS = 8
"""Times that a request to S3 is made, after pauses that double, before being throttled or cut off is an error."""

GOOGLE_SECONDS = 15
"""Seconds for which a request to Google's store is repeated; its client takes up to twice as long."""

OUTAGE_SECONDS = 600.0
"""Seconds that a trial waits for an object store that does not answer, after its client's own attempts, which take 30
to 70 seconds. Most outages of stores are shorter; torch lets ranks wait for each other longer."""

PAUSE_SECONDS = 5.0
"""The pause before it asks again."""

REFUSED_SECONDS = 10.0
"""Seconds after which a refusal ends a launch: a shorter one may be a slip, while the store spreads new rights, say."""

GONE = "NO_SUCH_BUCKET"
REFUSALS = (
    GONE,
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "PERMISSION_DENIED",
    "ExpiredToken",
    "StorageFull",
    "QuotaExceeded",
)
"""What an object store answers when asking again is of no use until somebody has done something."""

CLIENT_ERROR = re.compile(r"HTTP status 4(?!08|25|29)\d\d")
"""How an answer is told that means the request itself, and not the moment."""

RIGHTS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
"""The right that a request needs, by the name that pyarrow's errors give it."""

LACKING = "these credentials lack a right that a study needs: list, get, put and delete objects"
GOOGLE_LOGIN = (
    "no credentials of Google's are found here; run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to the file of a key, and check the network"
)
REMEDIES = {
    "NO_SUCH_BUCKET": "there is no such bucket; create it, or correct its name",
    "ACCESS_DENIED": LACKING,
    "PERMISSION_DENIED": LACKING,
    "AuthorizationPermissionMismatch": LACKING,
    "access token to authenticate": GOOGLE_LOGIN,
    "UNAUTHENTICATED": GOOGLE_LOGIN,
    "AuthenticationException": (
        "no credentials of Azure's are found here; run `az login`, or set AZURE_CLIENT_ID, AZURE_TENANT_ID and "
        "AZURE_CLIENT_SECRET"
    ),
    "valid account name": "name the account too, as in abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/runs",
    "INVALID_ACCESS_KEY_ID": "it does not know this access key; correct AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "it does not know this secret key; correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "these credentials have expired; log in again",
    "StorageFull": "it is full; make room in it",
    "QuotaExceeded": "its quota is used up; make room in it",
    "NETWORK_CONNECTION": "the server cannot be reached; check the region, AWS_ENDPOINT_URL and the network",
}
"""What to do where an error of a client has these words; the first that it has counts."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class StorageError(OSError):
    """An object store does not answer, or refuses; it says nothing of the file that was asked for."""


class UnusableError(StorageError):
    """A storage that refuses until somebody has done something: asking again is of no use, and it ends a launch."""


def s3_endpoint() -> str:
    """The URL of a server other than Amazon's that speaks S3, from the environment; empty without one."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@functools.lru_cache(maxsize=16)
def s3_client(bucket: str, endpoint: str) -> fs.FileSystem:
    """A client for one bucket, made once in a process.

    The client that pyarrow makes of a URL gives up at the first 503; it only tells the bucket's region here.
    """
    region = fs.FileSystem.from_uri(f"s3://{bucket}")[0].region
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        allow_delayed_open=True,  # a small file is one atomic put instead of a multipart upload's three requests
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


@functools.lru_cache(maxsize=16)
def google_client(*, anonymous: bool) -> fs.FileSystem:
    """A client for Google's store, which by itself would ask for a quarter of an hour in silence."""
    return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=GOOGLE_SECONDS))


@functools.lru_cache(maxsize=16)
def azure_client(scheme: str, container: str) -> tuple[fs.FileSystem, str]:
    """A client for one container or account of Azure's store, and the path of it there."""
    filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{container}")
    return filesystem, path.rstrip("/")


def patiently(filesystem: fs.FileSystem, request: Callable[[], T], uri: str, patience: float | None = None) -> T:
    """What a request to a file system returns, made again while an object store does not answer.

    `uri` is named in messages. `patience` (default: `OUTAGE_SECONDS`) are the seconds from the first request that the
    client has given up, which takes 30 to 70 seconds by itself. Raises StorageError where the store does not answer for
    that long, and UnusableError where it refuses for `REFUSED_SECONDS` or has no such bucket. Errors of a local disk,
    and answers of a store such as that there is no such file, are raised as they are: pyarrow has subclasses of OSError
    for answers, and OSError itself for everything else (of Azure, errors of its own where it refuses).
    """
    patience = OUTAGE_SECONDS if patience is None else patience
    asked_at = time.monotonic()
    given_up_at: float | None = None
    while True:
        try:
            return request()
        except (OSError, pa.ArrowException) as error:
            if isinstance(filesystem, fs.LocalFileSystem) or (
                isinstance(error, OSError) and type(error) is not OSError
            ):
                raise
            now, refusal = time.monotonic(), refusal_in(error)
            if given_up_at is None:
                given_up_at = now + (min(patience, REFUSED_SECONDS) if refusal else patience)
            if refusal and (now >= given_up_at or refusal == GONE):
                raise UnusableError(f"the storage {uri} refuses: {explained(error)}") from error
            if now >= given_up_at:
                raise StorageError(
                    f"the storage {uri} has not answered for {now - asked_at:.0f} s; nothing that it holds is lost by "
                    f"that, so try again when it does ({_with_remedy(error)})"
                ) from error
            logger.warning("%s does not answer, and is asked again: %s", uri, error)
            time.sleep(PAUSE_SECONDS)


def refusal_in(error: BaseException) -> str | None:
    """Which of `REFUSALS` an error is, if it is one; Azure's client has errors of its own for them."""
    told = next((word for word in REFUSALS if word in str(error)), None) or CLIENT_ERROR.search(str(error))
    if isinstance(told, re.Match):
        return str(told[0])
    return told or (type(error).__name__ if isinstance(error, pa.ArrowException) else None)


def explained(error: Exception) -> str:
    """An error of a storage with what to do about it."""
    cause = error.__cause__ or error
    if isinstance(error, UnusableError) and refusal_in(cause) is None:
        return str(error)
    said = _with_remedy(cause)
    if refusal_in(cause) or any(word in str(cause) for word in REMEDIES):
        return said
    if isinstance(error, StorageError):
        return f"it does not answer now; try again when it does ({said})"
    return (
        f"{said}. Expected a folder or URL that this user may write to; choose another storage, or check its "
        "permissions, free space and credentials"
    )


def _with_remedy(error: BaseException) -> str:
    """What a client says in one line, without what Google's says twice, behind what to do about it, where known."""
    said = " ".join(str(error).partition(" error_info=")[0].split())
    remedy = _missing_right(said) or next((remedy for word, remedy in REMEDIES.items() if word in said), "")
    return f"{remedy} ({said})" if remedy else said


def _missing_right(error: str) -> str | None:
    """The right that is missing and the bucket, where an error tells."""
    request, bucket = re.search(r"ACCESS_DENIED during (\w+) operation", error), re.search(r"bucket '([^']+)'", error)
    if request is None or bucket is None or request[1] not in RIGHTS:
        return None
    return f"these credentials lack the right {RIGHTS[request[1]]} on the bucket {bucket[1]!r}; grant it"
