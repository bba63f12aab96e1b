"""The time that a launch is said to take still, against timelines of trials whose times are known."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Literal

import pytest

from studies import tiny, tiny_study
from study.load import load_study
from study.plan import ExpectedImages, Plan, PlannedTrial, make_plan
from study.schedule import Schedule, TrialEnding
from study.simulate import SimulatedClock, simulate
from study.time_left import Left, time_left

GRID = tiny()["grid"]

Takes = Callable[[PlannedTrial], float]
Told = list[tuple[float, Left | None]]
EVERY = 0.02  # of the whole launch, at most, between two moments at which the time left is asked for


class Asked:
    """A schedule that is asked, whenever a trial has ended and in between, how long it still takes."""

    def __init__(self, schedule: Schedule, takes: Takes, predicted: Takes, moments: list[float]) -> None:
        self.schedule, self.takes, self.predicted = schedule, takes, predicted
        self.clock, self.moments = schedule.clock, moments
        self.told: Told = []

    def next(self) -> PlannedTrial | Literal["wait", "end"]:
        found = self.schedule.next()
        if not isinstance(found, PlannedTrial):
            self._ask_until_next_end()
        return found

    def ended(self, id: str, ending: TrialEnding) -> None:
        self.schedule.ended(id, ending)

    def _ask_until_next_end(self) -> None:
        """The simulation jumps from end to end; here its clock stops at every moment between two of them."""
        simulated = self.clock
        assert isinstance(simulated, SimulatedClock)
        now, schedule = simulated.now, self.schedule
        running = [id for id, state in schedule.states.items() if state == "running"]
        until = min((schedule.started[id] + self.takes(schedule.trials[id]) for id in running), default=now)
        while self.moments and self.moments[0] < until:
            simulated.now = max(now, self.moments.pop(0))
            shares = {id: (simulated.now - schedule.started[id]) / self.takes(schedule.trials[id]) for id in running}
            self.told.append((simulated.now, time_left(schedule, shares, self.predicted)))
        simulated.now = now


def replayed(plan: Plan, takes: Takes, slots: int, predicted: Takes = lambda trial: math.nan) -> tuple[float, Told]:
    """Seconds of a launch whose trials take known times, and what was said at 50 moments of it."""
    seconds = {id: takes(trial) for id, trial in plan.trials.items()}

    def made() -> Schedule:
        return Schedule(plan, slots, clock=SimulatedClock())

    schedule = made()
    assert isinstance(schedule.clock, SimulatedClock)
    makespan = simulate(schedule, seconds, slots, schedule.clock).makespan
    schedule = made()
    assert isinstance(schedule.clock, SimulatedClock)
    moments = [makespan * (number + 0.5) * EVERY for number in range(round(1 / EVERY))]
    asked = Asked(schedule, takes, predicted, moments)
    simulate(asked, seconds, slots, schedule.clock)
    return makespan, asked.told


def digits() -> Plan:
    study = load_study("study/presets/digits.yaml")
    return make_plan(study, ExpectedImages.of(study))


START = {"pretrain": 0.4, "linear": 0.15, "finetune": 0.25, "supervised": 0.25, "distill": 0.3}
STEP = {"pretrain": 0.02, "linear": 0.0005, "finetune": 0.006, "supervised": 0.006, "distill": 0.009}
RATE = {"pretrain": 1e11, "linear": 5e9, "finetune": 2e10, "supervised": 4e10, "distill": 3e10}


def unlike_operations(trial: PlannedTrial) -> float:
    """Times that each stage has its own of: of an operation it takes up to twenty times as long as another."""
    stage = trial.spec.stage
    return START[stage] + STEP[stage] * trial.steps + trial.train_flops / RATE[stage]


def evaluation_counts(trial: PlannedTrial) -> float:
    """Trainings that hardly count beside what each trial takes for itself, as with photos."""
    return 2.0 + trial.parameters / 1e6 + trial.train_flops / 1e12


def uneven(trial: PlannedTrial) -> float:
    """Neighbours make every trial slower by another factor, up to two."""
    return unlike_operations(trial) * (1 + zlib.crc32(trial.id.encode()) % 101 / 100)


@pytest.mark.parametrize("takes", [unlike_operations, evaluation_counts, uneven])
@pytest.mark.parametrize("slots", [1, 2, 7])
def test_time_left_is_right_from_a_quarter_on(takes: Takes, slots: int) -> None:
    """Where it is told as one time by a factor of 1.5; a range holds the truth. Of the end, seconds are left."""
    makespan, told = replayed(digits(), takes, slots)
    assert len(told) >= 45
    for now, left in told:
        truth = makespan - now
        if now < makespan / 4:
            continue
        assert left is not None
        near_the_end = truth < 0.1 * makespan
        assert truth / 1.5 <= left.seconds <= 1.5 * truth or near_the_end, (now / makespan, truth, left)
        assert abs(left.seconds - truth) < 0.25 * makespan
        assert left.low / 1.25 <= truth <= 1.25 * left.high or near_the_end, (now / makespan, truth, left)


def test_time_by_operations_alone_would_be_wrong() -> None:
    """The times that are replayed are no easy ones: what was told before would be off by more than a factor of two."""
    plan, worst = digits(), 1.0
    makespan, told = replayed(plan, unlike_operations, 2)
    schedule = Schedule(plan, 2, clock=SimulatedClock())
    assert isinstance(schedule.clock, SimulatedClock)
    found = simulate(schedule, {id: unlike_operations(one) for id, one in plan.trials.items()}, 2, schedule.clock)
    for now, _ in told:
        done = sum(plan.trials[id].train_flops for id, run in found.runs.items() if run.end <= now)
        left = sum(plan.trials[id].train_flops for id, run in found.runs.items() if run.end > now)
        if now > makespan / 4:
            guess = now * left / done
            worst = max(worst, guess / (makespan - now), (makespan - now) / guess)
    assert worst > 2


def test_predictions_of_earlier_launches_are_scaled_by_what_this_one_sees() -> None:
    """Everything takes three times as long as was predicted: a neighbour."""
    makespan, told = replayed(digits(), lambda trial: 3 * unlike_operations(trial), 2, predicted=unlike_operations)
    for now, left in told:
        assert left is not None  # from the start, if only as it was predicted
        if now >= makespan / 4:
            assert (makespan - now) / 1.2 <= left.seconds <= 1.2 * (makespan - now) + 0.01 * makespan


def test_trial_that_goes_on_from_its_checkpoint_is_taken_for_the_rest_of_one() -> None:
    """It had done 80 % before and took 10 s for another 10 %: 10 s are left, and 100 s for its like."""
    plan = make_plan(tiny_study(grid={**GRID, "seed": [0, 1]}), ExpectedImages(200, 10))
    (one, other) = (id for id in plan.trials if id.startswith("pretrain"))
    now = SimulatedClock()
    schedule = Schedule(plan.part([one, other]), 1, clock=now)
    started = schedule.next()
    assert isinstance(started, PlannedTrial)
    now.now = 10.0
    left = time_left(schedule, {started.id: 0.9}, before={started.id: 0.8})
    assert left is not None and left.seconds == pytest.approx(110, rel=0.15)
    now.now = 20.0
    schedule.ended(started.id, "done")
    assert isinstance(schedule.next(), PlannedTrial)
    left = time_left(schedule, {}, before={started.id: 0.8})
    assert left is not None and left.seconds == pytest.approx(100, rel=0.15)


def test_last_steps_of_a_trial_that_was_interrupted_tell_of_no_other() -> None:
    """A launch goes on with the last tenth of a trial, whose worker has to start for it; the next takes 20 s."""
    plan = make_plan(tiny_study(grid={**GRID, "seed": [0, 1, 2]}), ExpectedImages(200, 10))
    now = SimulatedClock()
    ids = [id for id in plan.trials if id.startswith("pretrain")]
    schedule = Schedule(plan.part(ids), 1, clock=now)
    for seconds in (15.0, 20.0):
        started = schedule.next()
        assert isinstance(started, PlannedTrial)
        now.now += seconds
        schedule.ended(started.id, "done")
    left = time_left(schedule, {}, before={next(iter(schedule.took)): 0.9})
    assert left is not None and left.seconds == pytest.approx(20, rel=0.1)


def test_nothing_is_said_where_nothing_is_known() -> None:
    plan = make_plan(tiny_study(), ExpectedImages(200, 10))
    schedule = Schedule(plan, 2, clock=SimulatedClock())
    assert time_left(schedule, {}) is None
    assert isinstance(schedule.next(), PlannedTrial) and time_left(schedule, {}) is None


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (Left(600, 300, 720), "5:00 to 12:00 left"),
        (Left(600, 550, 700), "about 10:00 left"),
        (Left(4000, 3900, 4100), "about 1:06:40 left"),
        (Left(0, 0, 0), "nothing left"),
    ],
)
def test_time_is_told_as_a_range_while_it_is_not_known_well(left: Left, said: str) -> None:
    assert str(left) == said
