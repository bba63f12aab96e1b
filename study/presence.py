"""A storage that is to be read must be there: a misspelled one would look like a study that has not begun."""

from __future__ import annotations

from pathlib import Path

from reports.storage import Storage


def is_present(storage: Storage) -> bool:
    """Whether a storage has been written to, or at least its folder made."""
    return Path(storage.root).is_dir() if storage.is_local else bool(storage.list())


def check_presence(storage: Storage, study: str | None) -> None:
    """Refuse to read a storage that does not exist.

    Raises:
        ValueError: where it was looked for, and the command that makes it.
    """
    if is_present(storage):
        return
    where = f"; the working directory is {Path.cwd()}" if storage.is_local else ""
    raise ValueError(
        f"there is no storage at {storage.root}{where}. Name the one of your launch by --storage, or make it: "
        f"python -m study launch {study or 'STUDY.yaml'}"
    )
