"""Why a launch ends that a storage or a disk refuses: one sentence, whatever the error came wrapped in."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.disk import REMEDY, DiskError, free_bytes, nearest_folder, sentence
from datasets.object_store import UnusableError
from datasets.typed_files import first_line
from reports.storage import Storage

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SHARED_MEMORY = "/dev/shm"
LEAST_BYTES = 2**20
"""A disk with less room than this is full: Ray's own files alone take more."""

REMEDY_FOR_MEMORY = "free some or make it larger (in Docker: --shm-size=4g), then launch again"
REMEDY_FOR_TEMPORARY = "free some, or set TMPDIR to a folder on another disk, then launch again"


@contextmanager
def refusals_told(storage: Storage) -> Iterator[None]:
    """A block of which every error that is a storage's or disk's refusal is raised as UnusableError; but a ValueError
    says already what is wrong with the storage that was named."""
    try:
        yield
    except Exception as error:
        refusal = unusable(error, storage)
        if refusal is None and not isinstance(error, ValueError):
            refusal = full_disk(storage)
        if refusal is None or (isinstance(error, ValueError) and not isinstance(refusal, DiskError)):
            raise
        raise refusal from error


def unusable(error: BaseException, storage: Storage) -> UnusableError | None:
    """The refusal that is behind an error; None where there is none.

    An error that names no file, as of a write to an open one, and Ray's own word that a disk is full, are of the disk
    with the least room among those that a launch writes to.
    """
    for one in chain(error):
        if isinstance(one, UnusableError):
            return type(one)(str(one))  # anew: raised from what it caused, it would be its own cause
        if isinstance(one, OSError) and one.errno in FULL:
            return _full(one.errno, str(one.filename) if one.filename else fullest(storage), storage)
        if type(one).__name__ == "OutOfDiskError":
            return _full(errno.ENOSPC, fullest(storage), storage)
    return None


def full_disk(storage: Storage) -> DiskError | None:
    """The disk of a launch that is full, where Ray failed and does not say why; None where none is."""
    place = fullest(storage)
    if free_bytes(nearest_folder(place)) >= LEAST_BYTES:
        return None
    return _full(errno.ENOSPC, place, storage)


def unwrapped(error: BaseException) -> BaseException:
    """The error that Ray wraps in pages of traceback, or the error itself."""
    return next(chain(error)) if is_of_ray(error) else error


def is_of_ray(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def failure_of_ray(error: BaseException) -> str:
    """A sentence for an error of Ray's own; its messages are pages long, and their first line says it."""
    why = first_line(str(error)) or "it does not say why"
    return f"Ray failed with {type(error).__name__}: {why}; what is finished is kept: start again to go on"


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those in it, the innermost ones of Ray's wrappers first, each once."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        inner = [getattr(one, "cause", None), getattr(one, "controller_failure", None), one.__cause__, one.__context__]
        inner += list((getattr(one, "worker_failures", None) or {}).values())
        if isinstance(getattr(one, "cause", None), BaseException):  # Ray's wrapper looks like what it wraps
            waiting += inner
        else:
            yield one
            waiting += inner


def fullest(storage: Storage) -> str:
    """Of the folders that a launch writes to, the one on the disk with the least room."""
    folders = [temporary_folder(), *([storage.root] if storage.is_local else [])]
    if Path(SHARED_MEMORY).is_dir():
        folders.append(SHARED_MEMORY)
    return min(folders, key=lambda folder: free_bytes(nearest_folder(folder)))


def temporary_folder() -> str:
    """Where temporary files go, Ray's among them; Python finds none where each of them is full."""
    try:
        return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    except FileNotFoundError:
        return "/tmp"


def _full(number: int, place: str, storage: Storage) -> DiskError:
    if storage.is_local and Path(place).is_relative_to(storage.root):
        remedy = REMEDY
    elif Path(place).is_relative_to(SHARED_MEMORY):
        remedy = REMEDY_FOR_MEMORY
    else:
        remedy = REMEDY_FOR_TEMPORARY if Path(place).is_relative_to(temporary_folder()) else REMEDY
    return DiskError(sentence(number, place, remedy=remedy))
