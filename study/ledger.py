"""The ledger of an exploration: an Optuna study that holds every cell handed out, its price and its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.adaptive import Scalar
from study.cells import Cell


@dataclass(frozen=True)
class Entries:
    """What the ledger says at one moment.

    `finished` holds accuracies by cell, in the order in which the cells finished; `given` are those of them that were
    never handed out. `spent` are the prices of all cells ever handed out, in device-hours; `trials` is how many trials
    the Optuna study has.
    """

    finished: dict[int, float]
    given: frozenset[int]
    running: list[int]
    failed: list[int]
    spent: float
    trials: int


class Ledger:
    """Cells of a grid as trials of an Optuna study.

    A trial's parameters are its cell's axes, its values the cell's accuracy and cost. Of its user attributes
    `handed_out` is false for a result that was there anyway, and `device_hours` is what the cell took when it was
    handed out, 0 if it was not. Nothing is kept besides the Optuna study, so that whoever opens it again sees the same.
    With `retry_failed`, cells that failed before are as if never handed out, except that their hours stay spent.
    """

    def __init__(self, optuna_study: optuna.Study, cells: Sequence[Cell], retry_failed: bool) -> None:
        """Raises ValueError when the Optuna study is one of another grid."""
        self.optuna_study, self.cells, self.axes = optuna_study, cells, tuple(cells[0])
        self.index = {tuple(cell[axis] for axis in self.axes): i for i, cell in enumerate(cells)}
        assert len(self.index) == len(cells), "a cell is twice in the grid"
        self.distributions: dict[str, BaseDistribution] = {
            axis: CategoricalDistribution(values_of(axis, cells)) for axis in self.axes
        }
        self._check()
        failed = optuna_study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if retry_failed else []
        self.forgiven = {trial.number for trial in failed}

    def read(self) -> Entries:
        trials = self.optuna_study.get_trials(deepcopy=False)
        done = sorted((trial for trial in trials if trial.state == TrialState.COMPLETE), key=_finishing)
        finished = {self._cell(trial): float(trial.values[0]) for trial in done}
        running = [self._cell(trial) for trial in trials if trial.state == TrialState.RUNNING]
        failures = [
            self._cell(trial)
            for trial in trials
            if trial.state == TrialState.FAIL and trial.number not in self.forgiven
        ]
        failed = [cell for cell in failures if cell not in finished and cell not in running]
        given = frozenset(self._cell(trial) for trial in done if not trial.user_attrs["handed_out"])
        spent = math.fsum(trial.user_attrs["device_hours"] for trial in trials)
        return Entries(finished, given, running, failed, spent, len(trials))

    def start(self, cell: int, price: float) -> None:
        self._add(cell, TrialState.RUNNING, None, {"handed_out": True, "device_hours": price})

    def finish(self, cell: int, accuracy: float, cost: float, device_hours: float | None = None) -> None:
        """Write a result: of the running cell, or of one that was never handed out and so took nothing.

        `device_hours`: what a running cell took in the end, where that is known, in the place of its price.
        """
        trial = self._running(cell)
        if trial is None:
            self._add(cell, TrialState.COMPLETE, [accuracy, cost], {"handed_out": False, "device_hours": 0.0})
            return
        if device_hours is not None:
            optuna.Trial(self.optuna_study, trial._trial_id).set_user_attr("device_hours", device_hours)
        self.optuna_study.tell(trial.number, [accuracy, cost])

    def started(self, cell: int) -> datetime | None:
        """When a running cell was handed out; None where it is not running."""
        trial = self._running(cell)
        return None if trial is None else trial.datetime_start

    def fail(self, cell: int) -> None:
        trial = self._running(cell)
        assert trial is not None, f"cell {cell} is not running"
        self.optuna_study.tell(trial.number, state=TrialState.FAIL)

    def _add(
        self, cell: int, state: TrialState, values: Sequence[float] | None, attributes: dict[str, bool | float]
    ) -> None:
        params = dict(self.cells[cell])
        trial = create_trial(
            state=state, params=params, distributions=self.distributions, values=values, user_attrs=attributes
        )
        self.optuna_study.add_trial(trial)

    def _running(self, cell: int) -> FrozenTrial | None:
        running = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return next((trial for trial in running if self._cell(trial) == cell), None)

    def _cell(self, trial: FrozenTrial) -> int:
        return self.index[tuple(trial.params[axis] for axis in self.axes)]

    def _is_entry(self, trial: FrozenTrial) -> bool:
        """Whether a trial is one that a ledger wrote: a cell, with its price."""
        hours = trial.user_attrs.get("device_hours")
        is_price = isinstance(hours, int | float) and not isinstance(hours, bool) and 0 <= hours < math.inf
        known = isinstance(trial.user_attrs.get("handed_out"), bool) and is_price
        return known and tuple(trial.params.get(axis) for axis in self.axes) in self.index

    def _check(self) -> None:
        name = self.optuna_study.study_name
        for trial in self.optuna_study.get_trials(deepcopy=False):
            if trial.distributions != self.distributions or not self._is_entry(trial):
                raise ValueError(
                    f"the Optuna study {name!r} explored another grid: its trial {trial.number} with {trial.params} "
                    "was no cell of a grid with the axes and values of this one; use an Optuna study of another name "
                    "(finished trainings stay finished)"
                )


def values_of(axis: str, cells: Sequence[Cell]) -> list[Scalar]:
    """Values of an axis in an order that depends on nothing but them: numbers by size, then names by alphabet."""
    values = set(cell[axis] for cell in cells)
    return sorted(values, key=lambda value: (1, 0, value) if isinstance(value, str) else (0, value, ""))


def _finishing(trial: FrozenTrial) -> tuple[float, int]:
    assert trial.datetime_complete is not None
    return trial.datetime_complete.timestamp(), trial.number
