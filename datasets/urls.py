"""What a person may write as a storage, a source or a destination, made into one name that means the same everywhere.

A name is an absolute path of this machine, or SCHEME://BUCKET/KEY, in which every character stands for itself: `%20` is
a percent sign and two digits, as in Amazon's command line. Only in `file://` URLs, which are turned into paths here,
`%20` is a space, as programs that write such URLs mean it.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
SCHEMES = ("s3", "gs", "abfs", "abfss")
OTHER_NAMES = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "az": "abfs", "azure": "abfs", "wasb": "abfs", "wasbs": "abfss"}
KNOWN = "|".join((*SCHEMES, *OTHER_NAMES, "file", "http", "https", "hdfs"))
ONE_SLASH = re.compile(rf"({KNOWN}):/?(?!/)(.*)|(s3|gs|abfss?)//(.*)", re.DOTALL | re.IGNORECASE)
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
GOOGLE = re.compile(r"(anonymous@)?[A-Za-z0-9][A-Za-z0-9._-]*")
AZURE = re.compile(r"([A-Za-z0-9$_-]+@)?[A-Za-z0-9._-]+(:\d+)?")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

LONGEST_KEY = 700
"""Bytes of a URL's path; object stores take 1,024, and files of a study have names of up to 300 below it."""
LONGEST_NAME = 255
"""Bytes of one name in a path, on nearly every file system."""
LONGEST_PATH = 3_300
"""Bytes of a path; Linux takes 4,095, and files of a study have names of up to 700 below it."""

SETTINGS = {
    "s3": "AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or `az login`",
}
SETTINGS["abfss"] = SETTINGS["abfs"]
"""How a client is told what others write behind a question mark of a URL, or before an @ in it."""


def is_local(uri: str) -> bool:
    """Return whether `uri` is a path of this machine rather than a URL."""
    return URL.match(uri) is None


def absolute(uri: str) -> str:
    """Return the one name of a place: the absolute path without links, or the URL without slashes at its end.

    The name of a name is itself. Raises ValueError for what is no path and no URL, or for a URL that parts of the
    program could take for different places: with options, an @, `..`, two slashes; the message says how it is written.
    """
    if not uri.strip():
        raise ValueError("found an empty path; expected a folder such as ./runs or a URL such as s3://bucket/runs")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{uri!r} has bytes that are not UTF-8; rename the folder, or use another one") from None
    match = URL.match(uri)
    if match is None:
        return _path(uri)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return _path_of_url(uri, rest)
    scheme = "gs" if scheme == "gcs" else scheme
    if scheme not in SCHEMES:
        meant = OTHER_NAMES.get(scheme) or next(iter(get_close_matches(scheme, SCHEMES, n=1)), "")
        hint = f"; did you mean {meant}://{rest}?" if meant else ""
        raise ValueError(f"{uri!r} is a URL of an unknown kind{hint or '.'} {EXPECTED}")
    bucket, _, key = rest.partition("/")
    key = key.rstrip("/")
    _check_bucket(uri, scheme, bucket, key)
    _check_key(uri, scheme, bucket, key)
    return f"{scheme}://{bucket}/{key}" if key else f"{scheme}://{bucket}"


EXPECTED = "Expected a path, file:///PATH, s3://BUCKET/..., gs://BUCKET/... or abfs://CONTAINER@ACCOUNT.../..."


def split_name(uri: str) -> tuple[str, str, str]:
    """Return scheme, bucket (of Azure, container and account) and key of a URL in which every character counts."""
    match = URL.match(uri)
    assert match is not None, "a path has no scheme"
    bucket, _, key = match[2].partition("/")
    return match[1], bucket, key.rstrip("/")


def _path(path: str) -> str:
    if match := ONE_SLASH.match(path):
        scheme, rest = (match[1] or match[3]).lower(), match[2] if match[1] else match[4]
        slash = "/" if scheme == "file" else ""
        raise ValueError(f"{path!r} is neither a path nor a URL; did you mean {scheme}://{slash}{rest}? {EXPECTED}")
    if os.name == "posix" and WINDOWS.match(path):
        raise ValueError(f"{path!r} is a path of Windows; expected one of this machine, such as /mnt/c/... in WSL")
    if "\0" in path:
        raise ValueError(f"{path!r} has a character of value 0, which no path may have")
    if long := [name for name in path.split("/") if len(name.encode()) > LONGEST_NAME]:
        found = f"{len(long[0].encode())} bytes ({long[0][:40]}...)"
        raise ValueError(f"a name in the path has {found}; file systems take {LONGEST_NAME}, choose a shorter one")
    try:
        resolved = str(Path(path).expanduser().resolve())
    except (RuntimeError, OSError) as error:  # ~nobody, a circle of links
        raise ValueError(f"cannot use the path {path!r}: {error}") from error
    if len(os.fsencode(resolved)) > LONGEST_PATH:
        raise ValueError(f"{path[:60]!r}... is a path of {len(os.fsencode(resolved)):,} bytes; choose a shorter one")
    return resolved


def _path_of_url(uri: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if not slash or host not in ("", "localhost"):
        raise ValueError(f"{uri!r} names a host or no path; expected file:///PATH: did you mean file:///{rest}?")
    if "?" in path or "#" in path:
        raise ValueError(
            f"{uri!r} has options or a part of a page; leave them out, or write %3F for a question mark and %23 for a "
            "hash in a name, or give the path without file://"
        )
    decoded = unquote(path, errors="surrogateescape")
    try:
        decoded.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{uri!r} has bytes that are not UTF-8; rename the folder, or use another one") from None
    return _path(f"/{decoded}")


def _check_bucket(uri: str, scheme: str, bucket: str, key: str) -> None:
    if not bucket:
        hint = f"; did you mean {scheme}://{key.lstrip('/')}?" if key else ""
        raise ValueError(f"the URL {uri!r} names no bucket{hint or '.'} Expected one such as {scheme}://bucket/runs")
    if "?" in bucket or "?" in key:
        raise ValueError(
            f"the URL {uri!r} has options after a question mark, which not every part of a study can read; leave them "
            f"out, and set them in the environment instead ({SETTINGS[scheme]})"
        )
    form = {"s3": BUCKET, "gs": GOOGLE}.get(scheme, AZURE)
    if form.fullmatch(bucket):
        return
    if "@" in bucket and form is not AZURE:
        raise ValueError(
            f"the URL {scheme}://...@{bucket.rpartition('@')[2]} has credentials before an @, which would be written "
            f"into logs and records; leave them out, and set them in the environment instead ({SETTINGS[scheme]})"
        )
    raise ValueError(
        f"the URL {uri!r} names the bucket {bucket!r}; expected letters, digits, points and hyphens, without a port "
        f"or a password ({SETTINGS[scheme]} are set in the environment)"
    )


def _check_key(uri: str, scheme: str, bucket: str, key: str) -> None:
    if CONTROL.search(key):
        raise ValueError(f"the URL {uri!r} has a control character, such as the end of a line; leave it out")
    names = key.split("/")
    if key and any(name in ("", ".", "..") for name in names):
        meant = os.path.normpath(f"/{key}").lstrip("/")
        raise ValueError(
            f"the URL {uri!r} has an empty name, . or .. between its slashes, which object stores do not resolve; did "
            f"you mean {scheme}://{bucket}/{meant}?"
        )
    if len(key.encode()) > LONGEST_KEY:
        raise ValueError(
            f"the URL {uri[:60]!r}... has a path of {len(key.encode()):,} bytes; expected at most {LONGEST_KEY}, so "
            "that names of files fit behind it"
        )
