"""How long trials take, learned while a launch runs: from those that it has finished, else from predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from study.plan import PlannedTrial

LEVELS: tuple[Callable[[PlannedTrial], tuple[object, ...]], ...] = (
    lambda trial: (),
    lambda trial: (trial.spec.stage,),
    lambda trial: (trial.spec.stage, trial.spec.architecture),
    lambda trial: (trial.spec.stage, trial.spec.architecture, trial.steps, trial.rows),
)
"""Trials that are alike, from all to the same kind."""

SPREADS = (0.8, 0.45, 0.25, 0.12)
"""Standard deviations of the logarithm of a trial's time where that of others was seen at such a level and none below;
of the first, trials of other stages."""

PREDICTED_SPREAD = 0.4
"""The same where a prediction from earlier launches is all that is known."""

SHRINK = 0.25
"""Imagined trials that took as long as expected, which are added to those seen of a level."""

LINEAR_STEP = 0.05
"""A step of linear evaluation, which trains one layer on stored features, in steps through a network with augmentation.
"""

LEAST = 1e-3
"""Seconds that a trial takes at least."""

ROUNDS = 4
"""Rates of all stages, and how much faster each stage is than they say, are found in turns."""

RIDGE = 1e-3
"""Of several explanations of the same times, the smallest: it decides where few trials have finished."""


@dataclass(frozen=True)
class Seen:
    """What a trial took, in wall seconds from its start to its end; `first`: its worker had to start, too."""

    trial: PlannedTrial
    seconds: float
    first: bool = False


@dataclass(frozen=True)
class Duration:
    """Expected wall seconds of a trial, and the standard deviation of their logarithm."""

    seconds: float
    spread: float


class Durations:
    """Expects times of trials by what others took.

    A trial takes a time for itself (to start, to evaluate, to write), a time a step, and a time an operation, none of
    them negative; which, is fitted to all that were seen. Where a prediction from earlier launches is known, that takes
    the fit's place. By how much both are off is corrected by stage, then by architecture, then by kind.
    """

    def __init__(
        self, seen: Iterable[Seen], predicted: Callable[[PlannedTrial], float] = lambda trial: math.nan
    ) -> None:
        self._seen = list(seen)
        self._predicted = predicted
        self._rates = _rates(self._seen)
        self._known: list[dict[tuple[object, ...], float]] = []
        left = []
        for one in self._seen:
            start = self._rates[3] if one.first else 0.0
            left.append(math.log(max(one.seconds - start, 0.1 * one.seconds) / self._base(one.trial)))
        for level in LEVELS:
            sums: dict[tuple[object, ...], tuple[float, int]] = {}
            for one, rest in zip(self._seen, left, strict=True):
                total, count = sums.get(level(one.trial), (0.0, 0))
                sums[level(one.trial)] = total + rest, count + 1
            means = {key: total / (count + SHRINK) for key, (total, count) in sums.items()}
            left = [rest - means[level(one.trial)] for one, rest in zip(self._seen, left, strict=True)]
            self._known.append(means)
        self._found: dict[tuple[object, ...], Duration | None] = {}

    def of(self, trial: PlannedTrial) -> Duration | None:
        """What a trial is expected to take; None where nothing is known."""
        kind = (*LEVELS[-1](trial), trial.workers, trial.train_flops, self._predicted(trial))
        if kind not in self._found:
            self._found[kind] = self._of(trial)
        return self._found[kind]

    def _of(self, trial: PlannedTrial) -> Duration | None:
        base = self._base(trial)
        if not base > 0:
            return None
        spread = PREDICTED_SPREAD if self._is_predicted(trial) else SPREADS[0]
        for number, (level, known) in enumerate(zip(LEVELS, self._known, strict=True)):
            if level(trial) in known:
                base *= math.exp(known[level(trial)])
                spread = min(spread, SPREADS[number])
        return Duration(base, spread)

    def _is_predicted(self, trial: PlannedTrial) -> bool:
        return not math.isnan(self._predicted(trial))

    def _base(self, trial: PlannedTrial) -> float:
        predicted = self._predicted(trial)
        if not math.isnan(predicted):
            return max(predicted, LEAST)
        return float(np.array(_features(trial)) @ self._rates[:3]) if self._seen else math.nan


def _features(trial: PlannedTrial) -> tuple[float, float, float]:
    match trial.spec.stage:
        case "linear":
            step = LINEAR_STEP
        case "pretrain" | "finetune" | "supervised" | "distill":
            step = 1.0
        case _:
            assert_never(trial.spec.stage)
    return 1.0, trial.steps * step, trial.train_flops / trial.workers


def _rates(seen: list[Seen]) -> NDArray[np.float64]:
    """Rates of all stages, of which each may be faster or slower than the others as a whole."""
    faster: dict[str, float] = {}
    rates = np.zeros(4)
    for _ in range(ROUNDS if seen else 0):
        alike = [replace(one, seconds=one.seconds * faster.get(one.trial.spec.stage, 1.0)) for one in seen]
        rates = _fitted(alike)
        by_stage: dict[str, list[float]] = {}
        for one in seen:
            expected = float(np.array((*_features(one.trial), float(one.first))) @ rates)
            by_stage.setdefault(one.trial.spec.stage, []).append(math.log(expected / one.seconds))
        faster = {stage: math.exp(sum(found) / (len(found) + SHRINK)) for stage, found in by_stage.items()}
    return rates


def _fitted(seen: list[Seen]) -> NDArray[np.float64]:
    """Seconds a trial, a step, an operation, and a worker's start: the least squares of relative errors, none negative.

    With four rates, all sets of those that are not zero are tried.
    """
    if not seen:
        return np.zeros(4)
    rows = np.array([(*_features(one.trial), float(one.first)) for one in seen])
    scale = rows.mean(axis=0)
    scale[scale == 0] = 1.0
    seconds = np.array([one.seconds for one in seen])
    relative = rows / scale / seconds[:, None]
    ridge = math.sqrt(RIDGE) / seconds.mean() * np.diag([1.0, 1.0, 1.0, 3.0])  # a worker's start explains least
    matrix, target = np.vstack([relative, ridge]), np.concatenate([np.ones(len(seen)), np.zeros(4)])
    best, least = np.zeros(4), math.inf
    for size in range(1, 5):
        for chosen in itertools.combinations(range(4), size):
            found, *_ = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)
            error = float(((matrix[:, chosen] @ found - target) ** 2).sum())
            if (found >= 0).all() and error < least and any(number < 3 for number in chosen):
                best, least = np.zeros(4), error
                best[list(chosen)] = found
    rates: NDArray[np.float64] = best / scale
    return rates
