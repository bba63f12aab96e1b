"""How long a launch still takes: what is left of its trials, laid out on its workers as the schedule would."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from study.durations import Durations, Seen
from study.plan import PlannedTrial
from study.schedule import Schedule, predecessors

LAST_SHARE = 0.05
"""A running trial that takes longer than expected is taken to take at least such a share of its time still."""

TOLD_SHARE = 0.05
"""From such a share of its steps on, a running trial tells what trials of its kind take."""

SURE = 1.5
"""A range whose ends are no further apart than by this factor is told as one time."""


@dataclass(frozen=True)
class Left:
    """Seconds until all trials that are known by now have ended: expected, and the ends of a range for them."""

    seconds: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.seconds == 0:
            return "nothing left"
        if self.high <= SURE * self.low:
            return f"about {clock(self.seconds)} left"
        return f"{clock(self.low)} to {clock(self.high)} left"


def time_left(
    schedule: Schedule,
    shares: Mapping[str, float],
    predicted: Callable[[PlannedTrial], float] = lambda trial: math.nan,
    before: Mapping[str, float] | None = None,
) -> Left | None:
    """How long the waiting and running trials of a schedule still take; None where nothing is known of one of them.

    `shares` are the shares of their steps that running trials have done, `predicted` the wall seconds of trials by
    what earlier launches tell (NaN: nothing), `before` the shares that an earlier launch has done of some trials.
    """
    now, trials, before = schedule.clock(), schedule.trials, before or {}
    running = [id for id, state in schedule.states.items() if state == "running"]
    waiting = [id for id, state in schedule.states.items() if state == "waiting"]
    gone = {id: now - schedule.started[id] for id in running}
    done = {id: shares.get(id, 0.0) - before.get(id, 0.0) for id in running}
    whole = {
        id: seconds / (1 - before.get(id, 0.0)) for id, seconds in schedule.took.items() if before.get(id, 0.0) < 1
    }
    whole |= {id: gone[id] / done[id] for id in running if done[id] >= TOLD_SHARE}
    seen = [Seen(trials[id], seconds, id in schedule.first) for id, seconds in whole.items() if seconds > 0]
    durations = Durations(seen, predicted)
    low, middle, high = dict[str, float](), dict[str, float](), dict[str, float]()
    for id in [*running, *waiting]:
        found = durations.of(trials[id])
        if found is None:
            return None
        for bound, factor in ((low, math.exp(-found.spread)), (middle, 1.0), (high, math.exp(found.spread))):
            bound[id] = found.seconds * factor
            if id in gone:
                bound[id] = _rest(bound[id], gone[id], done[id], before.get(id, 0.0))
    return Left(*(laid_out(schedule, running, waiting, seconds) for seconds in (middle, low, high)))


def _rest(expected: float, gone: float, done: float, before: float) -> float:
    """What is left of a running trial, which has done a share of its steps, others of them `before`: its own speed
    counts the more, the further it is."""
    whole = expected if done <= 0 else expected ** (1 - done) * (gone / done) ** done
    return max(whole * (1 - before) - gone, LAST_SHARE * whole)


def laid_out(schedule: Schedule, running: list[str], waiting: list[str], seconds: Mapping[str, float]) -> float:
    """Seconds until all of them have ended, if each takes so long from now on or from its start: those that are ready
    start in the schedule's order, as many as there are workers for."""
    trials, free = schedule.trials, schedule.max_workers
    ends: list[tuple[float, str]] = []
    for id in running:
        free -= trials[id].workers
        ends.append((seconds[id], id))
    heapq.heapify(ends)
    left = {id: sum(other in seconds for other in predecessors(trials[id])) for id in waiting}
    children: dict[str, list[str]] = {}
    for id in waiting:
        for other in predecessors(trials[id]):
            children.setdefault(other, []).append(id)
    ready = [(-schedule.chains[id], schedule.numbers[id], id) for id in waiting if left[id] == 0]
    heapq.heapify(ready)
    now = 0.0
    while ends or ready:
        while ready and (trials[ready[0][2]].workers <= free or not ends):
            id = heapq.heappop(ready)[2]
            free -= trials[id].workers
            heapq.heappush(ends, (now + seconds[id], id))
        now, id = heapq.heappop(ends)
        free += trials[id].workers
        for child in children.get(id, []):
            left[child] -= 1
            if left[child] == 0:
                heapq.heappush(ready, (-schedule.chains[child], schedule.numbers[child], child))
    return now


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
