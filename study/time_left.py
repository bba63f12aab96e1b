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
    # Of a trial that had little left to do, the start of its worker is most of the time: it tells of no other.
    telling = {id for id in whole if before.get(id, 0.0) < 0.5} or whole.keys()
    seen = [Seen(trials[id], whole[id], id in schedule.first) for id in whole if id in telling and whole[id] > 0]
    durations = Durations(seen, predicted)
    seconds, spreads = dict[str, float](), dict[str, float]()
    for id in [*running, *waiting]:
        found = durations.of(trials[id])
        if found is None:
            return None
        seconds[id], spreads[id] = found.seconds, found.spread
        if id in gone:
            seconds[id] = _rest(found.seconds, gone[id], done[id], before.get(id, 0.0))
    expected = laid_out(schedule, running, waiting, seconds)
    factor = math.exp(_spread(trials, seconds, spreads))
    return Left(expected, expected / factor, expected * factor)


def _spread(trials: Mapping[str, PlannedTrial], seconds: Mapping[str, float], spreads: Mapping[str, float]) -> float:
    """Standard deviation of the logarithm of all that is left: half way between that of times which are off together,
    and that of times of which each stage and architecture is off by itself."""
    work: dict[tuple[str, str], float] = {}
    for id in seconds:
        kind = (trials[id].spec.stage, trials[id].spec.architecture)
        work[kind] = work.get(kind, 0.0) + seconds[id] * trials[id].workers * spreads[id]
    whole = sum(seconds[id] * trials[id].workers for id in seconds)
    if whole == 0:
        return 0.0
    return (sum(work.values()) + math.sqrt(sum(one**2 for one in work.values()))) / (2 * whole)


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
