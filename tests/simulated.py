"""Launches of studies without Ray and without training: accuracies come from a formula, everything else is real."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import synthetic
from reports.records import Record
from reports.storage import Storage
from reports.stored import record_ids, write_record
from studies import tiny, tiny_study
from study.adaptive import RUNGS
from study.config import Study
from study.consequences import Underway, get_underway, next_trial, trial_ended, trial_reported
from study.evidence import StoredEvidence
from study.expectation import Expectation
from study.failures import failed_for_good, note_error
from study.growth import Growth
from study.plan import ExpectedImages, PlannedTrial
from study.schedule import Schedule
from study.trial import TrialSpec
from study.wanted import LaunchOptions

Accuracy = Callable[[TrialSpec], float]
HELD_OUT = 4  # of the 20 labelled images of the tiny study
SECONDS = 36.0  # that a simulated trial takes


def study_of(stages: dict[str, dict[str, Any]], **changes: Any) -> Study:
    """The tiny study of these stages only, their recipes changed as given; parents are to be named too."""
    recipes: dict[str, Any] = copy.deepcopy(tiny()["stages"])
    return tiny_study(stages={name: {**recipes[name], **more} for name, more in stages.items()}, **changes)


def setting(spec: TrialSpec, name: str) -> Any:
    """A setting of a trial by its dotted path."""
    value: Any = spec.settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def finish(storage: Storage, id: str, spec: TrialSpec, accuracy: float, held_out: int = HELD_OUT) -> None:
    """Write a trial's record, as if it had run."""
    plain = synthetic.plain(id, spec.stage, spec.architecture, spec.seed, spec.parent)
    plain["spec"] = spec.plain()
    plain["metrics"] = {"dev_top1": accuracy, "evaluated": held_out} if spec.dev else {"top1": accuracy}
    plain["cost"]["device_seconds"] = SECONDS
    plain["finished_at"] = datetime.now(UTC)
    write_record(storage, Record.model_validate(plain))


@dataclass
class Simulated:
    """A launch: the order in which trials started, after how many seconds some were told to stop, and what it knew at
    its end."""

    underway: Underway
    started: list[str] = field(default_factory=list)
    pruned: dict[str, float] = field(default_factory=dict)
    events: int = 0
    most_in_flight: int = 0

    @property
    def growth(self) -> Growth:
        return self.underway.growth

    @property
    def schedule(self) -> Schedule:
        return self.underway.schedule

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """What was chosen, by the ids of the choices that are decided."""
        growth = self.growth
        decisions = {id: growth.evidence.decide(choice) for id, choice in growth.expansion.choices.items()}
        return {id: decision.chosen.changes for id, decision in decisions.items() if decision is not None}

    @property
    def finals(self) -> dict[str, TrialSpec]:
        """The trials that hold out nothing and have a record."""
        specs = self.growth.expansion.specs
        return {id: spec for id, spec in specs.items() if spec.dev is None and self.schedule.states[id] == "done"}


class CutError(RuntimeError):
    """The power went off."""


def simulate(
    study: Study,
    storage: Storage,
    accuracy: Accuracy,
    *,
    fails: Callable[[TrialSpec], bool] = lambda spec: False,
    dies: Callable[[TrialSpec], bool] = lambda spec: False,
    options: LaunchOptions | None = None,
    slots: int = 2,
    seconds: float = math.nan,
    cut_after: int | None = None,
) -> Simulated:
    """Launch a study: trials advance by a quarter in turn, and those at their end leave a record.

    Trials that fail leave their failure, those whose process dies nothing.

    After a quarter k of its time a trial that is judged has k / 4 of its final accuracy. `cut_after`: raise `CutError`
    after so many quarters, everything in memory being lost. `seconds` are what a trial is predicted to take.
    """
    options = options or LaunchOptions()
    evidence = StoredEvidence(storage, record_ids(storage), retry_failed=options.retry_failed)
    growth = Growth(study, ExpectedImages.of(study), evidence, lambda trial: seconds)
    given_up = {} if options.retry_failed else failed_for_good(storage, growth.plan.missing())
    underway = get_underway(growth, options, given_up, slots, Expectation())
    return drive(underway, accuracy, fails=fails, dies=dies, cut_after=cut_after)


def drive(
    underway: Underway,
    accuracy: Accuracy,
    *,
    fails: Callable[[TrialSpec], bool] = lambda spec: False,
    dies: Callable[[TrialSpec], bool] = lambda spec: False,
    cut_after: int | None = None,
) -> Simulated:
    """Run the trials of a launch that is underway, as `simulate` says it."""
    launch, growth, storage = Simulated(underway), underway.growth, underway.storage
    running: list[tuple[PlannedTrial, int]] = []
    while True:
        running += _starts(launch)
        if not running:
            return launch
        launch.events += 1
        if launch.events == cut_after:
            raise CutError
        trial, quarters = running.pop(0)
        if quarters < RUNGS:
            gone = SECONDS * quarters / RUNGS
            if growth.rungs(trial.id):
                trial_reported(launch.underway, trial.id, quarters, accuracy(trial.spec) * quarters / RUNGS, gone)
            if not growth.evidence.is_pruned(trial.id):
                running.append((trial, quarters + 1))
                continue
            launch.pruned[trial.id] = gone
        elif fails(trial.spec):
            note_error(storage, trial.id, RuntimeError("diverged"))
        elif not dies(trial.spec):
            finish(storage, trial.id, trial.spec, accuracy(trial.spec))
        trial_ended(launch.underway, trial.id)


def _starts(launch: Simulated) -> Iterable[tuple[PlannedTrial, int]]:
    while isinstance(trial := next_trial(launch.underway), PlannedTrial):
        launch.started.append(trial.id)
        launch.most_in_flight = max(launch.most_in_flight, launch.schedule.workers_in_flight)
        yield trial, 1
