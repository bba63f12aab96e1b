"""The one reader of JSON files that lie in a storage: of bounded size, typed, and never surprised by what it finds.

Such a file was written by this program, and then a disk, an editor, another program or another version of this one may
have changed it. What is wrong with it is told with its path, and never ends in another error than `BadFileError`.
"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs
from pydantic import TypeAdapter, ValidationError

from datasets.object_store import StorageError, patiently

MOST_BYTES = 4 * 2**20
"""Bytes of a file of which nothing else is said. Objects of JSON take up to forty times their bytes in memory, and many
files are read at once."""

LONGEST_REASON = 300  # characters

REPLACED_READS = 4
"""An object store's file is read in two requests, length and content. Where it was replaced by a longer one between
them, the content is cut short; where it was deleted, the second request fails: it is read again so often."""

REPLACED_SECONDS = 5.0
"""That fails at once; a client gives up a store that does not answer after half a minute."""

T = TypeVar("T")


class BadFileError(ValueError):
    """A file that holds something else than it should; `path` is its path or URL, `reason` says what is wrong."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; delete or restore it")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadFileError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


def read_bounded(filesystem: fs.FileSystem, path: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of a file of at most `most` bytes, whose size is looked at before it is read.

    It is read again where it was replaced or deleted between the two requests that this takes. Raises
    FileNotFoundError where there is none, OSError where it cannot be read, ValueError where it is larger or no file.
    """
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError("is not a file")  # to open a pipe would wait for ever
    reads = 0
    while True:
        with filesystem.open_input_file(path) as file:
            if file.size() > most:
                raise ValueError(f"has {file.size():,} bytes; expected at most {most:,}")
            asked_at = time.monotonic()
            try:
                content: bytes = file.read(most)
                return content
            except OSError:
                reads += 1
                if reads > REPLACED_READS or time.monotonic() - asked_at > REPLACED_SECONDS:
                    raise


def read_parsed(
    parse: Callable[[bytes], T],
    filesystem: fs.FileSystem,
    path: str,
    uri: str,
    *,
    most: int = MOST_BYTES,
    patience: float | None = None,
    storage: str = "",
) -> T:
    """Return what a file holds, also where others are replacing it in this moment.

    `parse`, such as `parsed`, raises ValueError where its content is wrong. `uri` names the file in messages, and
    `storage` (default: the same) what does not answer; `patience` as in `object_store.patiently`. Raises
    FileNotFoundError where there is none, which a file that is only replaced never is, StorageError where the storage
    does not answer or refuses, which says nothing of the file, and BadFileError for everything that is wrong with it.
    """
    reason = ""
    for _ in range(1 if isinstance(filesystem, fs.LocalFileSystem) else REPLACED_READS):
        try:
            return parse(patiently(filesystem, lambda: read_bounded(filesystem, path, most), storage or uri, patience))
        except (FileNotFoundError, StorageError):
            raise
        except OSError as error:
            reason = f"cannot be read: {error}"
        except ValueError as error:  # perhaps cut short, as it was replaced meanwhile
            reason = str(error)
    raise BadFileError(uri, reason)


def parsed(kind: TypeAdapter[T], content: bytes) -> T:
    """Return a typed value from JSON.

    Raises ValueError, in one line, for what is not JSON, nests deeply, has a key twice, or is of another type.
    """
    if not content:
        raise ValueError("is empty")
    try:
        value = kind.validate_json(content)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None
    if content != kind.dump_json(value, indent=1):  # what this program wrote has no key twice
        json.loads(content, object_pairs_hook=_once)
    return value


def first_error(error: ValidationError) -> str:
    """What is wrong first, with its place, and how much more."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    said = first["msg"].removeprefix("Value error, ")
    return f"{shortened(place, 100)}: {shortened(said)}{more}" if place else f"{shortened(said)}{more}"


def shortened(text: str, most: int = LONGEST_REASON) -> str:
    """Return a text in one line, its middle left out where it is longer than `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[len(text) - most // 2 :]}"


def first_line(text: str, most: int = LONGEST_REASON) -> str:
    """Return the first line of a text that is not blank, cut after `most` characters; empty where there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:most]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"has the key {shortened(twice, 100)!r} twice")
    return found
