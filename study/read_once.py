"""Records of a storage, each of which is read once: a record never changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reports.records import Problem, Record
from reports.storage import Storage
from reports.stored import read_record, read_records


class Records:
    """Reads records without their histories, which only reports need, and remembers them; `known` are read already."""

    def __init__(self, storage: Storage, known: Mapping[str, Record] | None = None) -> None:
        self._storage = storage
        self._known: dict[str, Record] = dict(known or {})

    def read(self, ids: Iterable[str]) -> tuple[list[Record], list[Problem]]:
        """The records that there are of these trials, in the order of their ids; and the files that are not valid ones.

        Raises StorageError where the storage does not answer.
        """
        wanted = set(ids)
        problems: list[Problem] = []
        if new := wanted - self._known.keys():
            found, problems = read_records(self._storage, new)
            self._known |= {record.id: _without_history(record) for record in found}
        return [self._known[id] for id in sorted(wanted & self._known.keys())], problems

    def one(self, id: str) -> Record:
        """The record of one trial. Raises as `stored.read_record` does."""
        if id not in self._known:
            self._known[id] = _without_history(read_record(self._storage, id))
        return self._known[id]

    def at(self, storage: Storage) -> Records:
        """The same records, further ones of which are read by another client of the storage."""
        return Records(storage, self._known)


def _without_history(record: Record) -> Record:
    return record.model_copy(update={"history": ()})
