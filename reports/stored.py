"""Records and failures in a storage: writing them, and reading what is valid of them.

A record present means that the trial is finished, so it is written last and as a whole. A failure is not a record: it
lies beside the trial's checkpoints and is replaced by success.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import TypeAdapter

from datasets.typed_files import BadFileError, shortened
from reports.records import Failure, Problem, Record
from reports.storage import Storage

THREADS = 16  # a storage far away answers slowly, but many at once
FEW = 4 * THREADS
"""The failures of so many trials are asked for one by one. Of more, a listing tells first which can have any: an object
store names 1,000 of all its trials in an answer."""

Model = TypeVar("Model", Record, Failure)
ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Record, Failure)}


def write_record(storage: Storage, record: Record) -> None:
    """Write a finished trial's record, as a whole; writing the very same record again changes nothing.

    Raises ValueError when there is a record of this id with different content: records are never changed.
    """
    content = _to_json(record)
    name = f"{record.id}.json"
    if storage.exists("records", name):
        if storage.read_bytes("records", name) == content:
            return
        raise ValueError(
            f"{storage.uri('records', name)} exists with different content, and a record is never changed. "
            "To run this trial again, delete that file first; to compare, use another storage"
        )
    storage.write_bytes(content, "records", name)


def read_record(storage: Storage, trial_id: str) -> Record:
    """One record. Raises FileNotFoundError when there is none and ValueError when it is not a valid record."""
    found = _read(storage, Record, trial_id, ("records", f"{trial_id}.json"))
    if isinstance(found, Problem):
        raise BadFileError(found.path, f"is not a record: {found.reason}")
    if found is None:
        raise FileNotFoundError(f"{storage.uri('records', f'{trial_id}.json')}: trial {trial_id} has no record yet")
    return found


def read_records(storage: Storage, ids: Iterable[str] | None = None) -> tuple[list[Record], list[Problem]]:
    """All records, or those of `ids` that exist, in the order of their ids; and the files that are not valid records.

    A truncated or foreign file, or one that holds NaN, is never a number and never a crash: it is left out and listed.
    Raises StorageError where the storage does not answer, which says nothing of its files.
    """
    present = record_ids(storage)
    wanted = sorted(present if ids is None else present & set(ids))
    return _read_all(storage, Record, [(name, ("records", f"{name}.json")) for name in wanted])


def record_ids(storage: Storage) -> set[str]:
    """Ids of all finished trials, from the names of the files alone."""
    return {name.removesuffix(".json") for name in storage.list("records") if name.endswith(".json")}


def write_failure(storage: Storage, failure: Failure) -> None:
    """Write or replace the failure of a trial."""
    storage.write_bytes(_to_json(failure), "checkpoints", failure.id, "failure.json")


def read_failures(storage: Storage, ids: Iterable[str] | None = None) -> tuple[list[Failure], list[Problem]]:
    """Failures of all trials, or of those in `ids`, in the order of their ids; and the files that are not valid
    ones. Raises StorageError as `read_records` does."""
    wanted = None if ids is None else set(ids)
    if wanted is None or len(wanted) > FEW:
        present = set(storage.list("checkpoints"))
        wanted = present if wanted is None else present & wanted
    return _read_all(storage, Failure, [(name, ("checkpoints", name, "failure.json")) for name in sorted(wanted)])


def clear_failure(storage: Storage, trial_id: str) -> None:
    """Forget a trial's failure, after success; nothing happens when it has none."""
    storage.delete("checkpoints", trial_id, "failure.json")


def _to_json(model: Record | Failure) -> bytes:
    return type(model).model_validate(model.model_dump()).model_dump_json(indent=1).encode()


def _read_all(
    storage: Storage, kind: type[Model], files: list[tuple[str, tuple[str, ...]]]
) -> tuple[list[Model], list[Problem]]:
    def read_chunk(chunk: list[tuple[str, tuple[str, ...]]]) -> list[Model | Problem | None]:
        return [_read(storage, kind, trial_id, parts) for trial_id, parts in chunk]

    size = min(64, -(-len(files) // THREADS)) or 1  # a few hundred files far away are still read by all threads
    chunks = [files[i : i + size] for i in range(0, len(files), size)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = [one for chunk in pool.map(read_chunk, chunks) for one in chunk]
    return [one for one in found if isinstance(one, kind)], [one for one in found if isinstance(one, Problem)]


def _read(storage: Storage, kind: type[Model], trial_id: str, parts: tuple[str, ...]) -> Model | Problem | None:
    """The model in a file, what is wrong with the file, or None when there is no file.

    A file that this user may not read is wrong; a storage that does not answer is not.
    """
    try:
        model: Model = storage.read_typed(ADAPTERS[kind], *parts)
    except FileNotFoundError:
        return None
    except BadFileError as error:
        return Problem(error.path, error.reason)
    if model.id != trial_id:
        expected = f"expected {trial_id!r}, as in its name"
        return Problem(storage.uri(*parts), f"holds the id {shortened(model.id, 100)!r}; {expected}")
    return model
