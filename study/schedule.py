"""The order of a plan: which trial may start next, and which may when one has ended. Plain Python, no Ray."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

from study.plan import Plan, PlannedTrial

TrialState = Literal["waiting", "running", "done", "pruned", "failed", "skipped"]
TrialEnding = Literal["done", "pruned", "failed"]
Next = PlannedTrial | Literal["wait", "end"]

LOOK_BEHIND = 100
"""While a trial waits for its workers, this many of those behind it are considered for the workers that are free."""


class Schedule:
    """Hands out the trials of a plan, the longest remaining chain of FLOPs first.

    It decides by what it is told alone, and asks nobody but the clock: which trials there are (`add` brings those that
    are known only later), how each of them `ended`, and which are affordable now. There are no barriers between stages:
    a small model is being fine-tuned while a big one still pretrains. What builds on a trial without a record is
    skipped, and so is what builds on one of `given_up`, which are not tried. At most `max_workers` workers are in
    flight. A schedule that `grows` is not at its end while a trial runs.
    """

    def __init__(
        self,
        plan: Plan,
        max_workers: int,
        *,
        grows: bool = False,
        given_up: Collection[str] = (),
        seconds: Callable[[PlannedTrial], float] = lambda trial: math.nan,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` predicts a trial's, from start to end (NaN: unknown)."""
        self.max_workers = max_workers
        self.grows = grows
        self.seconds = seconds
        self.clock = clock
        self.started: dict[str, float] = {}  # when each trial of this launch was started, by the clock
        self.took: dict[str, float] = {}  # seconds from there to its end, of those that have ended and are done
        self.first: set[str] = set()  # started before any had ended, so that their workers had to start, too
        self.ends: dict[str, float] = {}  # when each of the running trials is expected to end, NaN: unknown
        self.all_refused = False  # all that is ready, since a trial ended last
        self.trials: dict[str, PlannedTrial] = {}
        self.states: dict[str, TrialState] = {}
        self.waiting = 0
        self.workers_in_flight = 0
        self.unmet: dict[str, int] = {}  # of how many trials a waiting one still waits for the record
        self.children: dict[str, list[str]] = {}
        self.chains: dict[str, float] = chains_of(plan.expected())
        self.numbers: dict[str, int] = {}  # the order of the plan, which decides between equal chains
        self.ready: list[tuple[float, int, str]] = []  # a heap of the waiting trials that wait for no other one
        for id, trial in plan.trials.items():
            self._add(trial, "done" if id in plan.finished else "failed" if id in given_up else "waiting")

    def next(self, is_affordable: Callable[[PlannedTrial], bool] = lambda trial: True) -> Next:
        """The trial to start now; "wait" until another one has ended; "end" when nothing can start any more.

        A trial that is not affordable is left waiting. Where all are refused, nobody is asked about them again before
        another trial has ended.
        """
        if self.workers_in_flight and self.ready and (self.all_refused or self.workers_in_flight == self.max_workers):
            return "wait"
        refused = []
        while self.ready and not is_affordable(self.trials[self.ready[0][-1]]):
            refused.append(heapq.heappop(self.ready))
        self.all_refused = not self.ready
        found = self._next_of_ready(is_affordable)
        for entry in refused:
            heapq.heappush(self.ready, entry)
        return "end" if found == "wait" and refused and self.workers_in_flight == 0 else found

    def _next_of_ready(self, is_affordable: Callable[[PlannedTrial], bool]) -> Next:
        if not self.ready:
            growing = self.grows and self.workers_in_flight > 0
            return "wait" if self.waiting or growing else "end"
        first = self.trials[self.ready[0][-1]]
        free = self.max_workers - self.workers_in_flight
        if first.workers <= free:
            heapq.heappop(self.ready)
            return self._start(first)
        entry = self._next_beside(first, free, is_affordable)
        if entry is None:
            return "wait"
        self.ready.remove(entry)
        heapq.heapify(self.ready)
        return self._start(self.trials[entry[-1]])

    def _next_beside(
        self, gang: PlannedTrial, free: int, is_affordable: Callable[[PlannedTrial], bool]
    ) -> tuple[float, int, str] | None:
        """The first trial that fits and does not delay one that waits until more workers are free."""
        if free == 0:
            return None
        now = start = self.clock()  # `start` becomes when the gang can start, `spare` how many are free beside it then
        spare = free - gang.workers
        for end, workers in sorted(
            (end if end > now else now, self.trials[id].workers) for id, end in self.ends.items()
        ):
            if spare >= 0 and end > start:
                break
            start, spare = end, spare + workers
        for entry in heapq.nsmallest(LOOK_BEHIND, self.ready):
            trial = self.trials[entry[-1]]
            harmless = trial.workers <= spare or now + self.seconds(trial) <= start
            if trial.workers <= free and harmless and is_affordable(trial):
                return entry
        return None

    def _start(self, trial: PlannedTrial) -> PlannedTrial:
        self._change(trial.id, "running")
        self.workers_in_flight += trial.workers
        self.started[trial.id] = self.clock()
        if not self.took:
            self.first.add(trial.id)
        self.ends[trial.id] = self.clock() + self.seconds(trial)
        return trial

    def ended(self, id: str, ending: TrialEnding) -> list[tuple[str, TrialState]]:
        """A trial has ended, well or not: what waits for it may start, or is skipped.

        Returns the trials whose end this is, each with its state: itself and those skipped.
        """
        assert self.states[id] == "running", f"{id} ended and is {self.states[id]}"
        self.workers_in_flight -= self.trials[id].workers
        del self.ends[id]
        self.all_refused = False
        self._change(id, ending)
        if ending != "done":
            return [(id, ending), *((child, "skipped") for child in self._skip_children(id))]
        self.took[id] = self.clock() - self.started[id]
        for child in self.children.get(id, []):
            self._met(child)
        return [(id, ending)]

    def add(self, trials: Iterable[PlannedTrial], finished: Collection[str] = ()) -> None:
        """Add trials that are known only now, parents first; those in `finished` have a record already."""
        new = {trial.id: trial for trial in trials}
        self.chains |= chains_of(new)
        for id, trial in new.items():
            self._add(trial, "done" if id in finished else "waiting")

    def missing(self) -> list[str]:
        return [id for id, state in self.states.items() if state == "waiting"]

    def counts(self) -> dict[str, Counter[TrialState]]:
        """States by stage."""
        table: dict[str, Counter[TrialState]] = {}
        for id, state in self.states.items():
            table.setdefault(self.trials[id].spec.stage, Counter())[state] += 1
        return table

    def _add(self, trial: PlannedTrial, state: TrialState) -> None:
        """Add a trial whose predecessors were added before."""
        id, before = trial.id, predecessors(trial)
        self.trials[id], self.states[id], self.numbers[id] = trial, state, len(self.numbers)
        if state != "waiting":
            return
        self.waiting += 1
        self.unmet[id] = sum(self.states[other] != "done" for other in before)
        for other in before:
            self.children.setdefault(other, []).append(id)
        if any(self.states[other] in ("pruned", "failed", "skipped") for other in before):
            self._change(id, "skipped")
        elif self.unmet[id] == 0:
            self._make_ready(id)

    def _make_ready(self, id: str) -> None:
        heapq.heappush(self.ready, (-self.chains[id], self.numbers[id], id))

    def _met(self, id: str) -> None:
        """One of the trials for which this one waits has its record."""
        self.unmet[id] -= 1
        if self.unmet[id] == 0 and self.states[id] == "waiting":
            self._make_ready(id)

    def _skip_children(self, id: str) -> list[str]:
        """Skip what waits for a trial that gets no record; returns what was skipped."""
        skipped: list[str] = []
        for child in self.children.get(id, []):
            if self.states[child] == "waiting":
                self._change(child, "skipped")
                skipped += [child, *self._skip_children(child)]
        return skipped

    def _change(self, id: str, state: TrialState) -> None:
        assert self.states[id] in ("waiting", "running")
        self.waiting -= self.states[id] == "waiting"
        self.states[id] = state


def predecessors(trial: PlannedTrial) -> tuple[str, ...]:
    """The trials whose records a trial waits for."""
    return trial.after if trial.spec.parent is None else (trial.spec.parent, *trial.after)


def chains_of(trials: Mapping[str, PlannedTrial]) -> dict[str, float]:
    """FLOPs from the start of each trial to the end of its longest chain of descendants; parents come first."""
    chain = {id: trial.train_flops for id, trial in trials.items()}
    for id, trial in reversed(list(trials.items())):
        for other in predecessors(trial):
            if other in trials:
                chain[other] = max(chain[other], trials[other].train_flops + chain[id])
    return chain
