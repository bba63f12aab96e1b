"""A disk that is full, read-only or broken, in one sentence: nothing goes on until somebody has done something."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from datasets.object_store import UnusableError

REMEDY = "free some or choose another --storage, then launch again"
ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
)
"""What the next attempt to write would meet, too."""


class DiskError(UnusableError):
    """A local disk on which nothing more can be written: full, over this user's quota, read-only or broken."""


@contextmanager
def writing(filesystem: fs.FileSystem, path: str, size: int = 0) -> Iterator[None]:
    """A block that writes `size` bytes to a file, or deletes one; it is for local ones that errors are looked at.

    Raises DiskError where the disk does not let that be done now or later, UnusableError where this user may not.
    """
    try:
        yield
    except OSError as error:
        local = isinstance(filesystem, fs.LocalFileSystem)
        if not local or isinstance(error, UnusableError) or error.errno not in ERRORS:
            raise
        kind = UnusableError if isinstance(error, PermissionError) else DiskError
        raise kind(sentence(error.errno, path, size)) from error


def sentence(number: int, path: str, size: int = 0, remedy: str = REMEDY) -> str:
    """What is wrong with the disk of a path by the number of an error that a write of `size` bytes met."""
    folder = nearest_folder(path)
    place = mount_point(folder)
    on = str(place) if place == folder else f"{place} (where {folder} is)"
    if number == errno.EDQUOT:
        return f"this user's quota on {on} is used up; {remedy}"
    if number == errno.EROFS:
        return f"{on} is read-only; make it writable or choose another --storage, then launch again"
    if number == errno.ENOSPC:
        return f"no space left on {on}: {_usage(folder, size)}; {remedy}"
    if number == errno.EFBIG:
        return f"a file of {size_text(size)} is larger than may be written to {folder}{_largest()}; {remedy}"
    if number == errno.EIO:
        return f"{on} cannot be written ({os.strerror(number)}): its disk may be broken; {remedy}"
    return f"this user may not write to {folder} ({os.strerror(number)}); {remedy}"


def nearest_folder(path: str) -> Path:
    """The folder of a file, or what exists of the path to it."""
    folder = Path(path).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def mount_point(folder: Path) -> Path:
    while not folder.is_mount():
        folder = folder.parent
    return folder


def free_bytes(folder: Path) -> int:
    """How many bytes this user may still write on the disk of a folder."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def _usage(folder: Path, size: int) -> str:
    stat = os.statvfs(folder)
    if stat.f_files and not stat.f_favail and stat.f_bavail:
        return f"{stat.f_files:,} of {stat.f_files:,} files (inodes) are there"
    used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    free = stat.f_bavail * stat.f_frsize
    more = f", and {size_text(size)} more do not fit" if size > free > 0 else ""
    return f"{size_text(used)} of {size_text(used + free)} used{more}"


def _largest() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return "" if limit == resource.RLIM_INFINITY else f" (`ulimit -f` is {size_text(limit)})"


def size_text(size: float) -> str:
    """A number of bytes as a person says it: `400 KB`, of 1,024 bytes each."""
    units = ["bytes", "KB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.3g} {units[0]}" if size < 1000 else f"{size:,.0f} {units[0]}"
