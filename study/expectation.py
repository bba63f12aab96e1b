"""What trials are expected to take, which a launch learns from those that it finishes."""

from __future__ import annotations

import math
from collections.abc import Callable

from study.plan import PlannedTrial


class Expectation:
    """Predicts device-seconds of trials, all their workers' together.

    `predicted` is asked first. Where it knows nothing (NaN), trials of the same architecture that this launch has
    finished tell by their operations, else trials of any; NaN where nothing tells.
    """

    def __init__(self, predicted: Callable[[PlannedTrial], float] = lambda trial: math.nan) -> None:
        self._predicted = predicted
        self._finished: dict[str, tuple[float, float]] = {}  # device-seconds and FLOPs by architecture; "": all

    def learn(self, trial: PlannedTrial, device_seconds: float) -> None:
        """Note what a trial has taken."""
        for key in (trial.spec.architecture, ""):
            seconds, flops = self._finished.get(key, (0.0, 0.0))
            self._finished[key] = seconds + device_seconds, flops + trial.train_flops

    def device_seconds(self, trial: PlannedTrial) -> float:
        expected = self._predicted(trial)
        known = self._finished.get(trial.spec.architecture, self._finished.get(""))
        if math.isnan(expected) and known is not None:
            expected = trial.train_flops * known[0] / known[1]
        return expected

    def wall_seconds(self, trial: PlannedTrial) -> float:
        """Seconds from a trial's start to its end."""
        return self.device_seconds(trial) / trial.workers
