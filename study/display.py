"""Live progress of a launch: a table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import rich.console
import rich.live
import rich.table
from ray import tune

from reports.message import printable
from reports.progress import Progress
from study.plan import PlannedTrial
from study.schedule import Schedule, TrialState
from study.time_left import clock, time_left
from trainables.spec import STAGES

STATES: tuple[TrialState, ...] = ("done", "running", "waiting", "pruned", "failed", "skipped")
UNFINISHED: tuple[TrialState, ...] = ("running", "waiting")
REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 10.0
LEFT_SECONDS = 5.0  # as often as running trials say how far they are
UNKNOWN = "time left unknown yet"


class Display:
    """Where a launch says what it does; `following` shows a schedule's states while a Tuner runs."""

    def __init__(self, console: rich.console.Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        self.console.print(printable(line), highlight=False, soft_wrap=True, markup=False, emoji=False)

    @contextmanager
    def following(
        self,
        schedule: Schedule,
        known: Callable[[], Mapping[str, Progress]],
        predicted: Callable[[PlannedTrial], float],
    ) -> Iterator[tune.Callback]:
        """Show progress until the end of the block; yields the callback by which Tune says that time has passed.

        `known` tells at once how far running trials were when they were last looked at, `predicted` the wall seconds of
        a trial by what earlier launches tell (NaN: nothing).
        """
        watch = _Watch(schedule, known, predicted)
        if not self.console.is_terminal:
            yield OnStep(lambda: self.say(watch.line()), PLAIN_SECONDS)
            self.say(watch.line())
            return
        with rich.live.Live(watch.table(), console=self.console, auto_refresh=False) as live:
            yield OnStep(lambda: live.update(watch.table(), refresh=True), REFRESH_SECONDS)
            live.update(watch.table(), refresh=True)


class OnStep(tune.Callback):
    """Calls a function at most every so many seconds, from Tune's own event loop."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self.function, self.seconds, self.called_at = function, seconds, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to be able to restore them, which is never done here; a terminal is no state."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self.called_at >= self.seconds:
            self.function()
            self.called_at = time.monotonic()  # a function slower than its interval is not called in every step


class _Watch:
    """Counts states, and tells the time left of what is planned by now."""

    def __init__(
        self,
        schedule: Schedule,
        known: Callable[[], Mapping[str, Progress]],
        predicted: Callable[[PlannedTrial], float],
    ) -> None:
        self.schedule, self.known, self.predicted = schedule, known, predicted
        self.started, self.told_at, self.told = time.monotonic(), -math.inf, ""
        self.before: dict[str, float] = {}  # shares of running trials that an earlier launch has done

    def line(self) -> str:
        total = Counter(self.schedule.states.values())
        states = ", ".join(f"{total[state]} {state}" for state in STATES if total[state])
        return f"{clock(time.monotonic() - self.started)}  {states}  {self.time_left()}"

    def table(self) -> rich.table.Table:
        table = rich.table.Table(caption=f"{clock(time.monotonic() - self.started)} gone, {self.time_left()}")
        table.add_column("stage")
        for state in STATES:
            table.add_column(state, justify="right")
        counts = self.schedule.counts()
        for stage in STAGES:
            if stage in counts:
                table.add_row(stage, *(str(counts[stage][state] or "") for state in STATES))
        return table

    def time_left(self) -> str:
        """From what trials of this launch have taken; found anew every few seconds."""
        if time.monotonic() - self.told_at >= LEFT_SECONDS or not self._anything_left():
            left = time_left(self.schedule, self._shares(), self.predicted, self.before)
            self.told, self.told_at = UNKNOWN if left is None else str(left), time.monotonic()
        return self.told

    def _anything_left(self) -> bool:
        return any(state in UNFINISHED for state in self.schedule.states.values())

    def _shares(self) -> dict[str, float]:
        """Of running trials; what the first look finds saved in a checkpoint was there before."""
        known = self.known()
        running = {id: known[id] for id, state in self.schedule.states.items() if state == "running" and id in known}
        for id, one in running.items():
            self.before.setdefault(id, min(one.saved, one.share))
        return {id: one.share for id, one in running.items()}
