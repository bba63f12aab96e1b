"""Live progress of a launch: a table in a terminal, plain lines elsewhere."""

from __future__ import annotations

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
from study.schedule import Schedule, State
from trainables.spec import STAGES

STATES: tuple[State, ...] = ("done", "running", "waiting", "pruned", "failed", "skipped")
UNFINISHED: tuple[State, ...] = ("running", "waiting")
REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 10.0


class Display:
    """Where a launch says what it does; `following` shows a schedule's states while a Tuner runs."""

    def __init__(self, console: rich.console.Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        self.console.print(printable(line), highlight=False, soft_wrap=True, markup=False, emoji=False)

    @contextmanager
    def following(self, schedule: Schedule, known: Callable[[], Mapping[str, Progress]]) -> Iterator[tune.Callback]:
        """Show progress until the end of the block; yields the callback by which Tune says that time has passed.

        `known` tells at once how far running trials were when they were last looked at.
        """
        watch = _Watch(schedule, known)
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
    """Counts states and guesses the time left from the FLOPs done since the launch."""

    def __init__(self, schedule: Schedule, known: Callable[[], Mapping[str, Progress]]) -> None:
        self.schedule, self.known = schedule, known
        self.started = time.monotonic()
        self.before = {id for id, state in schedule.states.items() if state == "done"}

    def line(self) -> str:
        total = Counter(self.schedule.states.values())
        states = ", ".join(f"{total[state]} {state}" for state in STATES if total[state])
        return f"{_clock(time.monotonic() - self.started)}  {states}  {self.time_left()}"

    def table(self) -> rich.table.Table:
        table = rich.table.Table(caption=f"{_clock(time.monotonic() - self.started)} gone, {self.time_left()}")
        table.add_column("stage")
        for state in STATES:
            table.add_column(state, justify="right")
        counts = self.schedule.counts()
        for stage in STAGES:
            if stage in counts:
                table.add_row(stage, *(str(counts[stage][state] or "") for state in STATES))
        return table

    def time_left(self) -> str:
        """From the rate of FLOPs since the launch, for what is planned by now; unknown until a few percent are done."""
        shares, states = self._shares(), self.schedule.states
        flops = {id: self.schedule.trials[id].train_flops for id in states}
        to_do = sum(flops[id] * (1 - shares.get(id, 0.0)) for id, state in states.items() if state in UNFINISHED)
        done = sum(flops[id] for id, state in states.items() if state in ("done", "pruned") and id not in self.before)
        done += sum(flops[id] * share for id, share in shares.items())
        if to_do == 0:
            return "nothing left"
        if done < 0.02 * (done + to_do):
            return "time left unknown yet"
        return f"about {_clock((time.monotonic() - self.started) * to_do / done)} left"

    def _shares(self) -> dict[str, float]:
        known = self.known()
        return {id: known[id].share for id, state in self.schedule.states.items() if state == "running" and id in known}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
