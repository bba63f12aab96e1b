"""Optuna's journal as a file that a disk or another program may have changed: every entry is checked before it counts.

An entry that is wrong cannot be passed over, since Optuna numbers studies and trials by the order of entries.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalStorageReplayResult
from optuna.trial import TrialState
from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from datasets.typed_files import BadFileError, parsed, shortened
from reports.quantities import Count, Number, is_bounded

MOST_LINE = 2**20
MOST_BYTES = 2**28
"""Bytes of a journal: a sample takes about a thousand."""

Text = Annotated[str, Field(max_length=10_000)]
Attribute = Annotated[dict[Text, JsonValue], Field(min_length=1, max_length=1)]
StateNumber = Annotated[int, Field(ge=0, le=3)]  # of Optuna's: running, complete, pruned, failed
Values = Annotated[list[Number], Field(max_length=10)] | None


class _Entry(BaseModel):
    worker_id: Text


class _Created(_Entry):
    op_code: Literal[0]
    study_name: Text
    directions: Annotated[list[Literal[1, 2]], Field(min_length=1, max_length=10)]


class _StudyAttribute(_Entry):
    op_code: Literal[2]
    study_id: Count
    user_attr: Attribute


class _StudySystemAttribute(_Entry):
    op_code: Literal[3]
    study_id: Count
    system_attr: Attribute


class _Trial(_Entry):
    op_code: Literal[4]
    study_id: Count
    datetime_start: Text | None
    datetime_complete: Text = ""
    state: StateNumber = 0
    params: dict[Text, Number] = {}
    distributions: dict[Text, str] = {}
    user_attrs: dict[Text, JsonValue] = {}
    system_attrs: dict[Text, JsonValue] = {}
    value: Number | None = None
    values: Values = None
    intermediate_values: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Number] = {}


class _Parameter(_Entry):
    op_code: Literal[5]
    trial_id: Count
    param_name: Text
    param_value_internal: Number
    distribution: str


class _Ended(_Entry):
    op_code: Literal[6]
    trial_id: Count
    state: StateNumber
    values: Values
    datetime_start: Text = ""
    datetime_complete: Text = ""


class _Intermediate(_Entry):
    op_code: Literal[7]
    trial_id: Count
    step: Count
    intermediate_value: Number


class _TrialAttribute(_Entry):
    op_code: Literal[8]
    trial_id: Count
    user_attr: Attribute


class _TrialSystemAttribute(_Entry):
    op_code: Literal[9]
    trial_id: Count
    system_attr: Attribute


_ENTRY: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        _Created
        | _StudyAttribute
        | _StudySystemAttribute
        | _Trial
        | _Parameter
        | _Ended
        | _Intermediate
        | _TrialAttribute
        | _TrialSystemAttribute,
        Field(discriminator="op_code"),
    ]
)


class CheckedJournal(JournalFileBackend):
    """A journal whose entries are checked when they are read, and whose last line may have been cut off, as by a full
    disk or a power cut: Optuna would append to it, and refuse the file from then on, so that line is dropped before
    this process writes its first. `path` is the file, `name` is what messages call it."""

    def __init__(self, path: str, lock: JournalFileOpenLock, name: str) -> None:
        self._path, self._name, self._whole = Path(path), name, False
        self._starts = [0]  # of the lines that were read, and of the next one
        self._seen = JournalStorageReplayResult("checked-")
        if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
            raise BadFileError(name, "is not a file")
        super().__init__(path, lock)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the entries from a number on. Raises BadFileError for one that is none."""
        with self._path.open("rb") as file:
            if (size := file.seek(0, 2)) > MOST_BYTES:
                raise BadFileError(self._name, f"has {size:,} bytes; expected at most {MOST_BYTES:,}")
            number = min(log_number_from, len(self._starts) - 1)
            file.seek(self._starts[number])
            while (line := file.readline(MOST_LINE)).endswith(b"\n"):
                entry = self._checked(line, number)
                number += 1
                if number == len(self._starts):
                    self._starts.append(file.tell())
                if number > log_number_from:
                    yield entry
            if len(line) == MOST_LINE:
                raise self._bad(number, f"has more than {MOST_LINE:,} bytes")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if not self._whole:
            with self._path.open("r+b") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
            self._whole = True
        super().append_logs(logs)

    def _checked(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            parsed(_ENTRY, line)
            entry: dict[str, Any] = json.loads(line)
            if not is_bounded(entry):
                raise ValueError("holds NaN, infinity or a number that is too large")
        except ValueError as error:
            raise self._bad(number, str(error)) from None
        if number == self._seen.log_number_read:
            self._apply(entry, number)
        return entry

    def _apply(self, entry: dict[str, Any], number: int) -> None:
        """Do what Optuna will do with an entry, whose exceptions are as many as its lines."""
        try:
            self._seen.apply_logs([entry])
            self._check_trial(entry)
        except Exception as error:
            raise self._bad(number, f"cannot follow those before it: {shortened(repr(error), 100)}") from None

    def _check_trial(self, entry: dict[str, Any]) -> None:
        """Refuse an entry after which a sample or a result would be half there."""
        if "trial_id" in entry:
            trial = self._seen.get_trial(entry["trial_id"])
            study = self._seen.get_study(self._seen._trial_id_to_study_id[entry["trial_id"]])
        elif entry["op_code"] == 4:
            study = self._seen.get_study(entry["study_id"])
            trial = self._seen.get_all_trials(entry["study_id"], None)[-1]
        else:
            return
        trial._validate()
        if trial.state == TrialState.COMPLETE and len(trial.values or ()) != len(study.directions):
            raise ValueError(f"{len(trial.values or ())} values for {len(study.directions)} objectives")

    def _bad(self, number: int, reason: str) -> BadFileError:
        return BadFileError(
            self._name,
            f"line {number + 1} {reason} (this is the journal of all searches; without it they begin anew, and "
            "finished trainings are not run again)",
        )
