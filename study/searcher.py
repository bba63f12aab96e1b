"""A schedule as Ray Tune wants it: a searcher that hands out a trial as soon as its parents have records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from study.ending import ending
from study.plan import PlannedTrial
from study.schedule import Next


class GraphSearcher(Searcher):
    """Tune's names for the order of a launch.

    `next` finds the trial to start, `make_config` is what it is told, and `ended` hears of its end, by our id. `judge`
    is told what a trial reports while it runs, before it goes on. `attend` is called whenever a trial is asked for,
    which Tune does again and again while none runs, and nothing else.
    """

    def __init__(
        self,
        next: Callable[[], Next],
        ended: Callable[[str], object],
        make_config: Callable[[PlannedTrial], dict[str, Any]],
        judge: Callable[[str, dict[str, Any]], None] | None = None,
        attend: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(metric="finished", mode="max")
        self.next = next
        self.ended = ended
        self.make_config = make_config
        self.judge = judge
        self.attend = attend
        self.ids: dict[str, str] = {}  # Tune's trial id -> ours

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's configuration; None while parents run, or the launch is to end; FINISHED when nothing can
        start any more."""
        self.attend()
        if ending.number is not None:
            return None
        found = self.next()
        if found == "end":
            return str(Searcher.FINISHED)
        if found == "wait":
            return None
        self.ids[trial_id] = found.id
        return self.make_config(found)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Trials report at their end, and before only where they are judged."""
        if self.judge is not None and "rung" in result:
            self.judge(self.ids[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if ending.number is None:  # what is interrupted then would count as failed
            self.ended(self.ids[trial_id])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to be able to restore it, which is never done here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the truth is in storage, and launching again resumes."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is resumed by launching it again, never from Tune's own state")
