"""What a storage knows of a study's choices: accuracies on held-out images, and what searches have sampled."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, TypeAdapter

from datasets.typed_files import BadFileError
from reports.quantities import Amount
from reports.records import Problem
from reports.storage import Storage
from reports.stored import record_ids
from study.adaptive import DEFAULT_TRIALS
from study.cells import Cell
from study.choices import Choice, Decision, Option, Score
from study.config import Study
from study.failures import failed_for_good
from study.grid import grid_cells
from study.picked import stored_exploration
from study.read_once import Records

if TYPE_CHECKING:
    from study.search import Searches


class _Mark(BaseModel):
    device_seconds: Amount


_MARK = TypeAdapter(_Mark)
logger = logging.getLogger(__name__)


class StoredEvidence:
    """Evidence from records: trials in `done` have one. Trials in `failed` are known to get none.

    What failed before gets none, unless it is tried again (`retry_failed`). A listed choice is decided when each of its
    options is known or has failed, a search when its budget is used up. A trial whose process was killed goes on at the
    next launch: what depends on it stays open until then. With `whole_grid` an exploration counts as if it had picked
    every cell.
    """

    def __init__(
        self,
        storage: Storage,
        done: Collection[str],
        *,
        retry_failed: bool = False,
        whole_grid: bool = False,
        records: Records | None = None,
    ) -> None:
        """`records` are those that were read before, if any were."""
        self.storage = storage
        self.records = Records(storage) if records is None else records
        self.whole_grid = whole_grid
        self.done = set(done)
        self.problems: dict[str, Problem] = {}  # records that cannot be read, by trial
        self.retry_failed = retry_failed
        self._measured: dict[str, tuple[float, float]] = {}
        self._pruned: dict[str, float] = {}

    def read_again(self, storage: Storage) -> StoredEvidence:
        """What the storage holds now, when another launch may have written to it; known records are not read again."""
        records = self.records.at(storage)
        return StoredEvidence(storage, record_ids(storage), retry_failed=self.retry_failed, records=records)

    def of_whole_grid(self) -> StoredEvidence:
        """The same, as if an exploration had picked every cell."""
        return StoredEvidence(self.storage, self.done, whole_grid=True, records=self.records)

    def after_launch(self) -> StoredEvidence:
        """The same when nothing runs any more: what has failed until now, in whichever launch, has failed."""
        later = StoredEvidence(self.storage, self.done, records=self.records)
        if "searches" in self.__dict__:
            later.searches = self.searches
        return later

    @cached_property
    def failed(self) -> set[str]:
        return (
            set()
            if self.retry_failed
            else set(failed_for_good(self.storage, set(self.storage.list("checkpoints")) - self.done))
        )

    @cached_property
    def searches(self) -> Searches:
        from study.search import Searches  # here, because plans that search nothing do without Optuna: 0.04 s

        return Searches(self.storage)

    def sampled(self, choice: Choice) -> list[tuple[Cell, bool]]:
        return [(changes, state in ("running", "complete")) for changes, state in self.searches.samples(choice)]

    def decide(self, choice: Choice) -> Decision | None:
        """The option of the highest mean accuracy, the first of equals; None where one is awaited or all failed."""
        if not self.is_over(choice):
            return None
        scores = tuple(Score(option, self.score(option)) for option in choice.options)
        known = [(score.dev_top1, score.option) for score in scores if score.dev_top1 is not None]
        if not known:
            return None
        return Decision(choice, max(known, key=lambda found: found[0])[1], scores)

    def picked(self, study: Study, labelled: Callable[[float], int]) -> list[int]:
        if self.whole_grid:
            return list(range(sum(1 for _ in grid_cells(study))))
        found = self._exploration(study, labelled)
        return [] if found is None else found[0]

    def exploring(self, study: Study, labelled: Callable[[float], int]) -> bool:
        """Whether a study's exploration may go on."""
        found = self._exploration(study, labelled)
        return study.explore is not None and (found is None or not found[1])

    def _exploration(self, study: Study, labelled: Callable[[float], int]) -> tuple[list[int], bool] | None:
        """Cells that an exploration has picked, and whether it is over; None before its first."""
        return None if study.explore is None else stored_exploration(study, labelled, self.searches)

    def is_over(self, choice: Choice) -> bool:
        """Whether nothing more is to be learnt about a choice's options."""
        if choice.search is None:
            return all(self._finished(option) or self.has_failed(option) for option in choice.options)
        states = [state for _, state in self.searches.samples(choice)]
        return self.budget_spent(choice) and "running" not in states

    def has_failed(self, option: Option) -> bool:
        """Whether an option cannot be measured: one of its trials, or of those on which they build, failed."""
        return not self.failed.isdisjoint((*option.trials, *option.needs))

    def note_end(self, id: str, ending: Literal["done", "pruned", "failed"]) -> None:
        """Take note of how a trial ended, unless its process died without a word: it has not failed for good."""
        if ending == "done":
            self.done.add(id)
        elif ending == "pruned" or failed_for_good(self.storage, [id]):
            self.failed.add(id)

    def budget_spent(self, choice: Choice) -> bool:
        """Whether a search may sample nothing more: so many samples, or so many device-hours of finished and pruned
        trials.

        A budget of hours is spent too when nothing is left to be learnt with it.
        """
        assert choice.search is not None
        most, hours = choice.search.most_trials, choice.search.device_hours
        if most is not None:
            return len(self.searches.samples(choice)) >= most
        pruned = [state == "pruned" for _, state in self.searches.samples(choice)]
        of_sample = list(zip(choice.options, pruned, strict=True))
        done = {id for option, _ in of_sample for id in option.trials if id in self.done and self._measure(id)}
        cut = {id for option, is_pruned in of_sample if is_pruned for id in option.trials} - done
        spent = sum(map(self.device_seconds, done)) + sum(map(self._seconds_until_pruned, cut))
        return (hours is not None and spent >= 3600 * hours) or self._learns_nothing(choice)

    def _learns_nothing(self, choice: Choice) -> bool:
        """Whether the latest samples of a search all failed or repeat earlier ones, which cost none of its hours."""
        states = [state for _, state in self.searches.samples(choice)]
        tried: set[str] = set()
        useless = 0
        for option, state in zip(choice.options, states, strict=True):
            if state == "failed" or tried.issuperset(option.trials):
                useless += 1
            elif state != "running":
                useless = 0
            tried.update(option.trials)
        return useless >= DEFAULT_TRIALS

    def score(self, option: Option) -> float | None:
        """Mean accuracy over all images that an option's trials held out; None unless all of them have a record."""
        if not self._finished(option):
            return None
        measured = [self._measured[id] for id in option.trials]
        return sum(top1 * images for top1, images in measured) / sum(images for _, images in measured)

    def is_pruned(self, id: str) -> bool:
        """Whether a trial was told to stop since others of its search do better."""
        return self.storage.exists(*pruned_mark(id))

    def mark_pruned(self, id: str, device_seconds: float) -> None:
        """Tell a running trial, which has taken `device_seconds` by now, to stop; it looks after each of its points."""
        self.storage.write_bytes(json.dumps({"device_seconds": device_seconds}).encode(), *pruned_mark(id))

    def forget_mark(self, id: str) -> None:
        """Forget what an earlier search said of a trial that starts now; its own verdict would be the same again."""
        self.storage.delete(*pruned_mark(id))

    def device_seconds(self, id: str) -> float:
        """What a finished trial took."""
        return self.records.one(id).cost.device_seconds or 0.0

    def _seconds_until_pruned(self, id: str) -> float:
        """Device-seconds of a trial that was pruned; 0 of a fold of its option that was not begun any more."""
        if id not in self._pruned:
            self._pruned[id] = self._noted_seconds(id)
        return self._pruned[id]

    def _noted_seconds(self, id: str) -> float:
        try:
            return self.storage.read_typed(_MARK, *pruned_mark(id)).device_seconds
        except FileNotFoundError:
            return 0.0
        except BadFileError as error:
            logger.warning("%s; what that trial took until it was stopped is not counted", error)
            return 0.0

    def ended_at(self, id: str) -> datetime:
        """When a trial with a record ended."""
        ended = self.records.one(id).finished_at
        assert ended is not None, "a run states when it ended"
        return ended

    def _finished(self, option: Option) -> bool:
        """Whether each trial of an option has a record that tells its accuracy."""
        return self.done.issuperset(option.trials) and all(self._measure(id) for id in option.trials)

    def _measure(self, id: str) -> bool:
        """Note a finished trial's accuracy on its held-out images, and their number; a record never changes.

        False where the record cannot be read or tells none: it is a problem then, and the trial not finished.
        """
        if id in self._measured:
            return True
        reason = "has no dev_top1 and evaluated among its metrics"
        try:
            metrics = self.records.one(id).metrics
        except BadFileError as error:
            reason, metrics = error.reason, {}
        if "dev_top1" in metrics and metrics.get("evaluated", 0) > 0:
            self._measured[id] = metrics["dev_top1"], metrics["evaluated"]
            return True
        self.done.discard(id)
        self.problems[id] = Problem(self.storage.uri("records", f"{id}.json"), reason)
        return False


def pruned_mark(id: str) -> tuple[str, ...]:
    """Parts of the path of the file that tells a trial to stop."""
    return "checkpoints", id, "pruned.json"
