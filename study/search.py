"""Searches within cells: what Optuna samples, is told and prunes, in a journal that lies in the study's storage."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from datasets.typed_files import BadFileError
from reports.storage import Storage
from study.adaptive import Range, Search
from study.cells import Cell
from study.choices import Choice
from study.journal import MOST_BYTES, CheckedJournal

JOURNAL = ("search", "journal.log")
"""Optuna's journal in the storage, which `optuna-dashboard RUNS/search/journal.log` opens."""

ASHA_REDUCTION = 3
"""Of the samples that have reached a point the best third goes on (as in Li et al. 2018, Hyperband, section 3)."""

WARM_STARTS = 3
"""A new search first tries the winners of at most so many earlier ones over the same settings at the same stage."""

BEGINNING = "begins_with"
"""A search's attribute in the journal: what it samples first, the winners of earlier ones."""

LOCK_SECONDS = 3
"""A lock that is as old was left behind by a process that was killed: writing takes milliseconds."""

SampleState = Literal["running", "complete", "pruned", "failed"]

STATES: dict[TrialState, SampleState] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Searches:
    """All searches of a storage; only one process may ask and tell at a time, any number may read.

    A journal on an object store is copied to this machine when it is opened, and put back after every change.
    """

    def __init__(self, storage: Storage) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = storage
        self.known: dict[str, optuna.Study] = {}
        self._journal: JournalStorage | None = None
        self._file = Path(storage.path(*JOURNAL))
        if not storage.is_local:
            copy = tempfile.mkdtemp(prefix="labelscale-search-")
            weakref.finalize(self, shutil.rmtree, copy)
            self._file = Path(copy) / JOURNAL[-1]
            if storage.exists(*JOURNAL):
                self._file.write_bytes(storage.read_bytes(*JOURNAL, most=MOST_BYTES))

    @property
    def uri(self) -> str:
        """Path or URL of the journal, for messages."""
        return self.storage.uri(*JOURNAL)

    def samples(self, choice: Choice) -> list[tuple[Cell, SampleState]]:
        """What a search has sampled, in order: the changes of the cell, and what became of them."""
        study = self.find(choice.id)
        trials = [] if study is None else study.get_trials(deepcopy=False)
        space = _space(choice)
        if odd := [trial.number for trial in trials if trial.distributions != space]:
            raise BadFileError(self.uri, f"has samples of {choice.id} of other ranges than it searches: {odd[:10]}")
        return [(dict(trial.params), STATES[trial.state]) for trial in trials]

    def ask(self, choice: Choice) -> int:
        """Sample new settings; returns their number in `samples`.

        The sampler's seed is made of the search's seed, the choice, and the number of samples so far, so that a search
        that was interrupted goes on as it would have. A sample is one line of the journal: `optuna.Study.ask` writes
        one for the sample and one for each of its settings, and a launch that is killed in between would leave a sample
        without settings.
        """
        assert choice.search is not None
        study = self.find(choice.id) or self.create(choice.id, [StudyDirection.MAXIMIZE])
        if BEGINNING not in study.user_attrs:
            study.set_user_attr(BEGINNING, self._winners_like(choice))
        known, beginning = study.get_trials(), self._beginning(choice, study)
        space = _space(choice)
        more = beginning[len(known) :]
        params = more[0] if more else _sample(choice.search, choice.id, known, space)
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=space))
        self.put_back()
        return len(known)

    def tell(self, choice: Choice, number: int, dev_top1: float | None, state: SampleState) -> None:
        """Say what became of a sample; what was told before stays as it is."""
        study = self.find(choice.id)
        assert study is not None and (state == "complete") == (dev_top1 is not None)
        ended = next(ended for ended, name in STATES.items() if name == state)
        study.tell(number, dev_top1, ended, skip_if_finished=True)
        self.put_back()

    def report(self, choice: Choice, number: int, step: int, dev_top1: float) -> bool:
        """Note a sample's accuracy at one of its points (from 1); returns whether it is to be pruned there."""
        study = self.find(choice.id)
        assert study is not None and choice.search is not None
        study.pruner = _pruner(choice.search)
        frozen = study.trials[number]
        trial = optuna.Trial(study, frozen._trial_id)
        if step not in frozen.intermediate_values:  # an interrupted training passes a point twice
            trial.report(dev_top1, step)
        verdict = trial.should_prune()  # which is noted in the journal, too
        self.put_back()
        return verdict

    def find(self, name: str) -> optuna.Study | None:
        """The Optuna study of a name, if there is one."""
        if name in self.known or not self._file.exists():
            return self.known.get(name)
        if name in {study.study_name for study in self._open().get_all_studies()}:
            self.known[name] = optuna.load_study(study_name=name, storage=self._open())
        return self.known.get(name)

    def create(self, name: str, directions: Sequence[StudyDirection]) -> optuna.Study:
        """A new Optuna study in the journal; who changes it by himself calls `put_back` afterwards."""
        self.known[name] = optuna.create_study(study_name=name, storage=self._open(), directions=directions)
        return self.known[name]

    def put_back(self) -> None:
        """Write the journal into the storage, where that is not this machine's disk."""
        if not self.storage.is_local:
            self.storage.write_bytes(self._file.read_bytes(), *JOURNAL)

    def _open(self) -> JournalStorage:
        if self._journal is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # A symlink, the default, is not to be had on every file system. A launch that was killed leaves its lock.
            lock = JournalFileOpenLock(str(self._file), LOCK_SECONDS)
            self._journal = JournalStorage(CheckedJournal(str(self._file), lock, self.uri))
        return self._journal

    def _beginning(self, choice: Choice, study: optuna.Study) -> list[dict[str, Any]]:
        """What a search samples first, as the journal has it."""
        found, space = study.user_attrs[BEGINNING], _space(choice)
        if isinstance(found, list) and all(_fits(params, space) for params in found):
            return found
        reason = f"has a {BEGINNING} of {choice.id} that is no list of settings within its ranges"
        raise BadFileError(self.uri, reason)

    def _winners_like(self, choice: Choice) -> list[dict[str, object]]:
        """The best settings of the latest searches at the same stage over the same ranges, each once."""
        space = _space(choice)
        found: list[dict[str, object]] = []
        for other in reversed(self._open().get_all_studies()):
            if not other.study_name.startswith(f"choose-{choice.stage}-"):
                continue
            done = self._open().get_all_trials(other._study_id, states=[TrialState.COMPLETE])
            if done and done[0].distributions == space:
                best = max(done, key=lambda trial: trial.value or 0.0).params
                found += [best] if best not in found else []
        return found[:WARM_STARTS]


def _sample(search: Search, name: str, known: list[FrozenTrial], space: dict[str, BaseDistribution]) -> dict[str, Any]:
    """The settings that follow those known, by a copy of the search in memory."""
    copy = optuna.create_study(direction="maximize", sampler=_sampler(search, name, len(known)))
    copy.add_trials(known)
    return copy.ask(space).params


def _sampler(search: Search, choice: str, asked: int) -> optuna.samplers.BaseSampler:
    digest = hashlib.sha256(f"{search.seed} {choice} {asked}".encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ASHA_REDUCTION)
    return optuna.pruners.MedianPruner() if search.pruner == "median" else optuna.pruners.NopPruner()


def _space(choice: Choice) -> dict[str, BaseDistribution]:
    return {axis: _distribution(found) for axis, found in choice.space.items()}


def _fits(params: object, space: dict[str, BaseDistribution]) -> bool:
    """Whether something is a setting of each axis of a space, within its range."""
    if not isinstance(params, dict) or params.keys() != space.keys():
        return False
    try:
        return all(one._contains(one.to_internal_repr(params[axis])) for axis, one in space.items())
    except (ValueError, TypeError):
        return False


def _distribution(found: Range) -> BaseDistribution:
    if found.choices is not None:
        return optuna.distributions.CategoricalDistribution(tuple(found.choices))
    if found.whole is not None:
        return optuna.distributions.IntDistribution(*found.whole)
    low, high = found.log or found.uniform or (0.0, 0.0)
    return optuna.distributions.FloatDistribution(low, high, log=found.log is not None)
