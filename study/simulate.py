"""A schedule against simulated time: how long a plan takes on so many devices, before anything is paid."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from study.plan import Plan
from study.schedule import Next, Schedule, TrialEnding, predecessors


class Order(Protocol):
    """What decides which trial is next: a `Schedule`, or whatever stands before one."""

    def next(self) -> Next: ...

    def ended(self, id: str, ending: TrialEnding) -> object: ...


@dataclass(frozen=True)
class TrialTimes:
    """When one trial started and ended, in seconds from the launch."""

    start: float
    end: float


@dataclass(frozen=True)
class Simulation:
    """What a launch would do.

    `makespan` is the seconds until the last trial has ended, `busy` the share of the device-seconds until then in which
    a worker trained, in [0, 1].
    """

    runs: dict[str, TrialTimes]
    makespan: float
    busy: float


class SimulatedClock:
    """The time of a simulation, in seconds from the launch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(order: Order, seconds: Mapping[str, float], devices: int, clock: SimulatedClock) -> Simulation:
    """Ask `order` for trials as Tune does, whenever a trial has ended, well; `seconds` are each trial's, from start to
    end.

    A trial holds as many devices as it has workers. Time passes only in trials: starting them takes none. `clock` is
    what `order` sees of it.
    """
    held, free = 0.0, devices
    running: list[tuple[float, str, int]] = []  # a heap: end, id, workers
    runs: dict[str, TrialTimes] = {}
    while True:
        found = order.next()
        if not isinstance(found, str):
            assert found.workers <= free, f"{found.id} was started with {free} of its {found.workers} devices free"
            free -= found.workers
            runs[found.id] = TrialTimes(clock.now, clock.now + seconds[found.id])
            held += found.workers * seconds[found.id]
            heapq.heappush(running, (runs[found.id].end, found.id, found.workers))
        elif running:
            clock.now = running[0][0]
            while running and running[0][0] == clock.now:  # all that end together, before the next is chosen
                _, id, workers = heapq.heappop(running)
                free += workers
                order.ended(id, "done")
        else:
            assert found == "end", "nothing runs, and yet the next trial waits"
            return Simulation(runs, clock.now, held / (clock.now * devices) if clock.now else 0.0)


def simulate_plan(plan: Plan, seconds: Mapping[str, float], devices: int) -> Simulation:
    """What a launch of this plan would do, no trial failing; `devices` hold one worker each.

    Raises:
        ValueError: a trial has more workers than there are devices.
    """
    widest = max(plan.missing().values(), key=lambda trial: trial.workers, default=None)
    if widest is not None and widest.workers > devices:
        raise ValueError(
            f"{widest.id} has {widest.workers} workers, more than {devices} device{'s' if devices > 1 else ''}; "
            "give more with --devices, or lower execution.workers"
        )
    clock = SimulatedClock()
    schedule = Schedule(plan, devices, seconds=lambda trial: seconds[trial.id], clock=clock)
    return simulate(schedule, seconds, devices, clock)


def critical_path(plan: Plan, seconds: Mapping[str, float]) -> tuple[list[str], float]:
    """The chain of unfinished trials, each awaited by the next, that takes longest; and its seconds.

    No number of devices makes a launch shorter than it.
    """
    missing = plan.missing()
    until: dict[str, float] = {}  # seconds until a trial's end, if nothing but what it waits for is waited for
    awaited: dict[str, str | None] = {}
    for id, trial in missing.items():  # parents come first
        awaited[id] = max(
            (other for other in predecessors(trial) if other in missing), key=until.__getitem__, default=None
        )
        until[id] = seconds[id] + until.get(awaited[id] or "", 0.0)
    if not until:
        return [], 0.0
    last: str | None = max(until, key=until.__getitem__)
    total = until[last] if last is not None else 0.0
    chain: list[str] = []
    while last is not None:
        chain.insert(0, last)
        last = awaited[last]
    return chain, total
