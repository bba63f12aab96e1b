"""GPU hours of one launch: a trial is started only if the remaining budget covers what it is expected to take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from study.expectation import Expectation
from study.plan import PlannedTrial


class Budget:
    """What a launch may spend, in hours of devices, has spent, and has promised to trials that run.

    A worker's devices are its GPUs, or one without any. Where nothing tells what a trial takes, it is started as long
    as anything is left and none of its architecture runs, which will tell. A trial that runs is expected to take what
    was predicted, or what it has taken, whichever is more: if predictions hold, the budget does. Waiting for a node
    takes nothing, before a trial begins or after it has lost one: only the time in which it is seen to train counts.
    """

    def __init__(
        self,
        hours: float,
        per_worker: dict[str, float],
        expectation: Expectation,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hours = hours
        self.spent_by_ended = 0.0  # device-seconds
        self._devices, self._expectation, self._clock = per_worker.get("GPU", 1.0), expectation, clock
        self._running: dict[str, PlannedTrial] = {}
        self._since: dict[str, float] = {}  # when they were started, or were last seen to begin or to lose a node
        self._before: dict[str, float] = {}  # device-seconds until they lost a node
        self._waiting: set[str] = set()  # those of the running that have not begun, or lost a node

    def affordable(self) -> Callable[[PlannedTrial], bool]:
        """Tells which trials can be expected to end within the budget, beside those that run now."""
        promised = sum(max(0.0, self._spent(id), self._expected(one)) for id, one in self._running.items())
        left = self.hours * 3600 - self.spent_by_ended - promised
        architectures = {one.spec.architecture for one in self._running.values()}

        def is_affordable(trial: PlannedTrial) -> bool:
            expected = self._expected(trial)
            if not math.isnan(expected):
                return left >= expected
            return left > 0 and trial.spec.architecture not in architectures

        return is_affordable

    def started(self, trial: PlannedTrial) -> None:
        """A trial was handed out; it may have to wait for a node."""
        self._running[trial.id], self._since[trial.id], self._before[trial.id] = trial, self._clock(), 0.0
        self._waiting.add(trial.id)

    def note_training(self, trains: Callable[[str], bool]) -> None:
        """Find out which of the trials that were started train now, and which wait for a node."""
        for id in self._running:
            training, waiting = trains(id), id in self._waiting
            if training == waiting:  # it has begun, or lost a node, since the last time
                self._before[id] = self._spent(id)
                self._since[id] = self._clock()
                self._waiting ^= {id}

    def ended(self, id: str, device_seconds: float | None) -> None:
        """A trial has ended; its record, if it has one, states its workers' `device_seconds`.

        What it waited for a node is not in its record, and what it took in earlier launches was not spent by this one.
        """
        if device_seconds is None:
            self.spent_by_ended += self._spent(id)
        else:
            self.spent_by_ended += min(self._taken(id), device_seconds * self._devices)
        del self._running[id], self._since[id], self._before[id]
        self._waiting.discard(id)

    @property
    def spent_hours(self) -> float:
        return (self.spent_by_ended + sum(self._spent(id) for id in self._running)) / 3600

    def summary(self, undone: list[str], named: int = 10) -> str:
        """What was spent, and which trials were left undone."""
        spent = f"budget: {self.spent_hours:.3g} of {self.hours:g} GPU hours spent"
        if not undone:
            return spent
        more = f" and {len(undone) - named:,} more" if len(undone) > named else ""
        return f"{spent}; left undone: {', '.join(undone[:named])}{more}"

    def _taken(self, id: str) -> float:
        return self._before[id] + (self._clock() - self._since[id]) * self._running[id].workers * self._devices

    def _spent(self, id: str) -> float:
        return self._before[id] if id in self._waiting else self._taken(id)

    def _expected(self, trial: PlannedTrial) -> float:
        """Seconds of devices; NaN where nothing tells."""
        return self._expectation.device_seconds(trial) * self._devices
