"""The order of a plan: a Ray Tune searcher that hands out a trial as soon as its parents have records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from ray.tune.search import Searcher

from study.plan import Plan, PlannedTrial

State = Literal["waiting", "running", "done", "failed", "skipped"]


class GraphSearcher(Searcher):
    """Hands out the trials of a plan, the longest remaining chain of FLOPs first.

    A small model is being fine-tuned while a big one still pretrains: there are no barriers between stages. Children of
    a failed trial are skipped. `has_record` decides whether a trial that ended is done: the record is the truth, not
    what Tune believes. At most `max_workers` workers are in flight.
    """

    def __init__(
        self,
        plan: Plan,
        make_config: Callable[[PlannedTrial], dict[str, Any]],
        has_record: Callable[[str], bool],
        max_workers: int,
    ) -> None:
        super().__init__(metric="finished", mode="max")
        self.trials = plan.trials
        self.make_config = make_config
        self.has_record = has_record
        self.max_workers = max_workers
        self.states: dict[str, State] = {id: "done" if id in plan.finished else "waiting" for id in plan.trials}
        self.ids: dict[str, str] = {}  # Tune's trial id -> ours
        self.order = sorted(self.missing(), key=self._urgency(), reverse=True)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's configuration; None while parents run; FINISHED when nothing can start any more."""
        room = self.max_workers - self.workers_in_flight()
        waiting = False
        for id in self.order:
            if self.states[id] != "waiting":
                continue
            parent = self.trials[id].spec.parent
            if parent is None or self.states[parent] == "done":
                if self.trials[id].workers <= room:
                    self.states[id] = "running"
                    self.ids[trial_id] = id
                    return self.make_config(self.trials[id])
                return None  # it waits for its gang of workers; smaller trials behind it would starve it for ever
            waiting = True
        return None if waiting else str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Trials report once, at their end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        id = self.ids[trial_id]
        self.states[id] = "done" if self.has_record(id) else "failed"
        if self.states[id] == "failed":
            self._skip_children(id)

    def workers_in_flight(self) -> int:
        return sum(self.trials[id].workers for id, state in self.states.items() if state == "running")

    def missing(self) -> list[str]:
        return [id for id, state in self.states.items() if state == "waiting"]

    def counts(self) -> dict[str, Counter[State]]:
        """States by stage."""
        table: dict[str, Counter[State]] = {}
        for id, state in self.states.items():
            table.setdefault(self.trials[id].spec.stage, Counter())[state] += 1
        return table

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to be able to restore it, which is never done here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the truth is in storage, and launching again resumes."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is resumed by launching it again, never from Tune's own state")

    def _skip_children(self, failed: str) -> None:
        for id in self.order:  # chains are at most four long, so a few passes over the order are enough
            if self.trials[id].spec.parent == failed and self.states[id] == "waiting":
                self.states[id] = "skipped"
                self._skip_children(id)

    def _urgency(self) -> Callable[[str], float]:
        """FLOPs from the start of a trial to the end of its longest chain of descendants."""
        chain = {id: trial.train_flops for id, trial in self.trials.items()}
        for id, trial in reversed(self.trials.items()):  # children come after their parents
            if trial.spec.parent is not None:
                own = self.trials[trial.spec.parent].train_flops
                chain[trial.spec.parent] = max(chain[trial.spec.parent], own + chain[id])
        return lambda id: chain[id]
