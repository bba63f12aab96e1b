"""What a launch does when a trial may start, when it says how well it does, and when it has ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reports.storage import Storage
from study.budget import Budget
from study.expectation import Expectation
from study.growth import Growth
from study.plan import PlannedTrial
from study.schedule import Next, Schedule, TrialEnding
from study.wanted import LaunchOptions, wanted_trials


@dataclass(frozen=True)
class Underway:
    """What a launch knows of its trials: their order, how the study grows by them, what they are expected to take, and
    what they may cost."""

    schedule: Schedule
    growth: Growth
    expectation: Expectation
    budget: Budget | None
    options: LaunchOptions

    @property
    def storage(self) -> Storage:
        return self.growth.evidence.storage


def get_underway(
    growth: Growth,
    options: LaunchOptions,
    given_up: Collection[str],
    max_workers: int,
    expectation: Expectation,
    budget: Budget | None = None,
) -> Underway:
    """A launch of what is wanted of a study as far as it is known now, before its first trial."""
    plan = growth.plan.part(wanted_trials(growth.plan, options))
    schedule = Schedule(plan, max_workers, grows=True, given_up=given_up, seconds=expectation.wall_seconds)
    return Underway(schedule, growth, expectation, budget, options)


def next_trial(underway: Underway) -> Next:
    """The trial to start now, which counts as started; "wait" and "end" as a schedule says them."""
    schedule, budget = underway.schedule, underway.budget
    found = schedule.next() if budget is None else schedule.next(budget.affordable())
    if isinstance(found, PlannedTrial):
        underway.growth.evidence.forget_mark(found.id)
        if budget is not None:
            budget.started(found)
    return found


def trial_reported(underway: Underway, id: str, rung: int, dev_top1: float, device_seconds: float) -> None:
    """A running trial tells its accuracy at one of its points: where others of its search do better, it is to stop."""
    if underway.growth.prune(id, rung, dev_top1):
        underway.growth.evidence.mark_pruned(id, device_seconds)


def trial_ended(underway: Underway, id: str) -> None:
    """Everything that follows from a trial's end.

    1. How it ended: what it left in the storage is the truth, not what whoever ran it believes.
    2. What it took is learnt for those to come, and the budget pays for it.
    3. In the schedule, what waited for it may start or is skipped.
    4. The study grows by what is known only now, and what is wanted of that joins the schedule.
    """
    schedule, growth, budget = underway.schedule, underway.growth, underway.budget
    ending = how_it_ended(growth, id)
    taken = growth.evidence.records.one(id).cost.device_seconds if ending == "done" else None
    if taken is not None:
        underway.expectation.learn(schedule.trials[id], taken)
    if budget is not None:
        budget.ended(id, taken)
    changed = schedule.ended(id, ending)
    grown = growth.after(changed)
    schedule.add(_wanted_of(grown, underway), finished=growth.evidence.done)


def how_it_ended(growth: Growth, id: str) -> TrialEnding:
    """How a trial ended, by what it left in storage."""
    if growth.evidence.storage.exists("records", f"{id}.json"):
        return "done"
    return "pruned" if growth.evidence.is_pruned(id) else "failed"


def _wanted_of(grown: list[PlannedTrial], underway: Underway) -> list[PlannedTrial]:
    """What is wanted of trials that are known only now, and of earlier ones, since what needs those may be new."""
    growth, known = underway.growth, underway.schedule.trials
    if underway.options.only is None or not grown:
        return grown
    wanted = wanted_trials(growth.known(), underway.options)
    return [trial for id, trial in growth.planner.trials.items() if id in wanted and id not in known]
