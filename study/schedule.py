"""The order of a plan: which trial may start next, and what follows from one that has ended. Plain Python, no Ray."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Literal

from study.plan import Plan, PlannedTrial

State = Literal["waiting", "running", "done", "failed", "skipped"]


class Schedule:
    """Hands out the trials of a plan, the longest remaining chain of FLOPs first.

    A small model is being fine-tuned while a big one still pretrains: there are no barriers between stages. Children of
    a failed trial are skipped. `has_record` decides whether a trial that ended is done: the record is the truth, not
    what whoever ran it believes. At most `max_workers` workers are in flight.
    """

    def __init__(self, plan: Plan, has_record: Callable[[str], bool], max_workers: int) -> None:
        self.trials = plan.trials
        self.has_record = has_record
        self.max_workers = max_workers
        self.states: dict[str, State] = {id: "done" if id in plan.finished else "waiting" for id in plan.trials}
        self.waiting = len(self.missing())
        self.workers_in_flight = 0
        chains = chains_of(self.trials)
        most_urgent_first = sorted(self.missing(), key=chains.__getitem__, reverse=True)
        self.ranks = {id: rank for rank, id in enumerate(most_urgent_first)}
        self.children: dict[str, list[str]] = {}
        self.ready: list[tuple[int, str]] = []  # a heap of waiting trials whose parents are done
        for id, rank in self.ranks.items():
            parent = self.trials[id].spec.parent
            if parent is not None:
                self.children.setdefault(parent, []).append(id)
            if parent is None or self.states[parent] == "done":
                self.ready.append((rank, id))  # ranks ascend, so this is a heap

    def next(self) -> PlannedTrial | Literal["wait", "end"]:
        """The trial to start now; "wait" until another one has ended; "end" when nothing can start any more."""
        if not self.ready:
            return "wait" if self.waiting else "end"
        trial = self.trials[self.ready[0][1]]
        if trial.workers > self.max_workers - self.workers_in_flight:
            return "wait"  # for its gang of workers; smaller trials behind it would starve it for ever
        heapq.heappop(self.ready)
        self._change(trial.id, "running")
        self.workers_in_flight += trial.workers
        return trial

    def ended(self, id: str) -> None:
        """A trial has ended, well or not: its children may start, or are skipped."""
        assert self.states[id] == "running", f"{id} ended and is {self.states[id]}"
        self.workers_in_flight -= self.trials[id].workers
        self._change(id, "done" if self.has_record(id) else "failed")
        if self.states[id] == "failed":
            self._skip_children(id)
            return
        for child in self.children.get(id, []):
            heapq.heappush(self.ready, (self.ranks[child], child))

    def missing(self) -> list[str]:
        return [id for id, state in self.states.items() if state == "waiting"]

    def counts(self) -> dict[str, Counter[State]]:
        """States by stage."""
        table: dict[str, Counter[State]] = {}
        for id, state in self.states.items():
            table.setdefault(self.trials[id].spec.stage, Counter())[state] += 1
        return table

    def _skip_children(self, id: str) -> None:
        for child in self.children.get(id, []):
            self._change(child, "skipped")
            self._skip_children(child)

    def _change(self, id: str, state: State) -> None:
        assert self.states[id] in ("waiting", "running")
        self.waiting -= self.states[id] == "waiting"
        self.states[id] = state


def chains_of(trials: dict[str, PlannedTrial]) -> dict[str, float]:
    """FLOPs from the start of each trial to the end of its longest chain of descendants; parents come first."""
    chain = {id: trial.train_flops for id, trial in trials.items()}
    for id, trial in reversed(trials.items()):
        if trial.spec.parent is not None:
            own = trials[trial.spec.parent].train_flops
            chain[trial.spec.parent] = max(chain[trial.spec.parent], own + chain[id])
    return chain
