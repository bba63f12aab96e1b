"""GPU hours of a launch, on a clock that the test winds, and of a real one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.storage import Storage
from reports.stored import read_records
from studies import tiny, tiny_study
from study.budget import Budget
from study.expectation import Expectation
from study.plan import ExpectedImages, Plan, PlannedTrial, make_plan
from study.schedule import Schedule
from test_launch import run, sharded, study_file

GRID = {"architecture": ["r10w0.0625", "r10"], "label_fraction": [0.1], "seed": [0, 1]}
HOUR = 3600.0
Hours = Callable[[PlannedTrial], float]


def a_plan(**changes: Any) -> Plan:
    return make_plan(tiny_study(grid=GRID, **changes), ExpectedImages(200, 10))


class Run:
    """A launch in which every trial takes `takes(trial)` device-hours, and the budget expects `expects(trial)`."""

    def __init__(self, plan: Plan, hours: float, takes: Hours, expects: Hours, slots: int = 2, gpus: float = 1) -> None:
        self.now = 0.0  # in hours
        self.expectation = Expectation(lambda trial: expects(trial) * HOUR)
        self.budget = Budget(hours, {"GPU": gpus}, self.expectation, lambda: self.now * HOUR)
        self.schedule = Schedule(plan, slots)
        self.started: list[str] = []
        self._drive(takes)

    def _drive(self, takes: Hours) -> None:
        running: list[tuple[float, PlannedTrial]] = []
        while (found := self.schedule.next(self.budget.affordable())) != "end":
            if isinstance(found, PlannedTrial):
                self.budget.started(found)
                self.budget.note_training(lambda id: True)
                self.started.append(found.id)
                running.append((self.now + takes(found) / found.workers, found))
                continue
            running.sort(key=lambda pair: pair[0])
            self.now, trial = running.pop(0)
            self.expectation.learn(trial, takes(trial) * HOUR)
            self.budget.ended(trial.id, takes(trial) * HOUR)
            self.schedule.ended(trial.id, "done")
        for self.now, trial in sorted(running, key=lambda pair: pair[0]):
            self.budget.ended(trial.id, takes(trial) * HOUR)


def one_hour(trial: PlannedTrial) -> float:
    return 1.0


@pytest.mark.parametrize(("hours", "started"), [(0.5, 0), (1, 1), (3.5, 3), (7, 7), (100, 20)])
def test_trials_of_an_hour_are_started_while_the_budget_pays_for_them(hours: float, started: int) -> None:
    plan = a_plan()
    assert len(plan.trials) == 20
    run = Run(plan, hours, one_hour, one_hour)
    assert len(run.started) == started
    assert run.budget.spent_hours == pytest.approx(started)
    assert len(run.schedule.missing()) == 20 - started


def test_what_was_refused_is_not_asked_about_again_before_a_trial_has_ended() -> None:
    asked: list[str] = []

    def is_affordable(trial: PlannedTrial) -> bool:
        asked.append(trial.id)
        return len(schedule.ends) < 3

    schedule = Schedule(a_plan(), 4)
    started = [schedule.next(is_affordable) for _ in range(3)]
    assert schedule.next(is_affordable) == "wait"
    asked.clear()
    assert [schedule.next(is_affordable) for _ in range(100)] == ["wait"] * 100 and not asked
    assert isinstance(started[0], PlannedTrial)
    schedule.ended(started[0].id, "done")
    assert isinstance(schedule.next(is_affordable), PlannedTrial)


def test_a_cheap_trial_is_started_where_a_dear_one_no_longer_fits() -> None:
    def takes(trial: PlannedTrial) -> float:
        return 10.0 if trial.spec.architecture == "r10" else 1.0

    run = Run(a_plan(), 9, takes, takes)
    assert len(run.started) == 9 and all("r10w0.0625" in id for id in run.started)
    assert run.budget.spent_hours == pytest.approx(9)


def test_without_predictions_finished_trials_of_the_launch_tell() -> None:
    run = Run(a_plan(), 3.5, one_hour, lambda trial: math.nan, slots=1)
    assert run.started[0].startswith("pretrain-r10-"), "nothing tells what it takes"
    assert 2 <= len(run.started) <= 4 and run.budget.spent_hours <= 4.5


def test_what_takes_longer_than_expected_is_paid_by_what_is_not_started() -> None:
    run = Run(a_plan(), 6, lambda trial: 2.0, one_hour, slots=1)
    assert len(run.started) == 3 and run.budget.spent_hours == pytest.approx(6)


def test_workers_that_share_a_gpu_spend_their_shares() -> None:
    run = Run(a_plan(), 2.1, one_hour, one_hour, slots=4, gpus=0.5)
    assert len(run.started) == 4 and run.budget.spent_hours == pytest.approx(2)


def test_summary_says_what_was_spent_and_left_undone() -> None:
    run = Run(a_plan(), 3, one_hour, one_hour)
    said = run.budget.summary(run.schedule.missing(), named=2)
    assert said.startswith("budget: 3 of 3 GPU hours spent; left undone: ") and said.endswith("and 15 more")
    assert run.budget.summary([]) == "budget: 3 of 3 GPU hours spent"


def test_trials_are_expected_to_take_what_was_predicted_else_what_their_like_took() -> None:
    plan = a_plan(execution={"workers": {"default": 1, "r10": 2}, "per_worker": {"CPU": 1}})
    small, big = (
        next(one for one in plan.trials.values() if one.spec.architecture == name) for name in ("r10w0.0625", "r10")
    )
    expectation = Expectation()
    assert math.isnan(expectation.device_seconds(big))
    expectation.learn(small, 100.0)
    rate = 100.0 / small.train_flops
    assert expectation.device_seconds(big) == pytest.approx(big.train_flops * rate)
    assert expectation.wall_seconds(big) == pytest.approx(big.train_flops * rate / 2)
    expectation.learn(big, 7.0)
    assert expectation.device_seconds(big) == pytest.approx(7.0)
    assert expectation.device_seconds(small) == pytest.approx(100.0)
    assert Expectation(lambda trial: 5.0).device_seconds(big) == 5.0


def test_waiting_for_a_node_costs_nothing() -> None:
    now = [0.0]
    plan = a_plan(execution={"workers": 2, "per_worker": {"CPU": 1}})
    budget = Budget(10, {}, Expectation(lambda trial: 4 * HOUR), lambda: now[0] * HOUR)
    first, second, third = list(plan.trials.values())[:3]
    for trial in (first, second):
        assert budget.affordable()(trial)
        budget.started(trial)
    now[0] = 5.0
    assert budget.spent_hours == 0 and not budget.affordable()(third), "two of four hours are promised, not two of ten"
    budget.note_training(lambda id: id == first.id)
    now[0] = 6.0
    assert budget.spent_hours == 2, "two workers for an hour"
    budget.ended(second.id, None)
    assert budget.spent_hours == 2 and budget.affordable()(third)


def test_waiting_for_another_node_costs_nothing() -> None:
    now = [0.0]
    budget = Budget(10, {}, Expectation(lambda trial: HOUR), lambda: now[0] * HOUR)
    trial, *others = a_plan().trials.values()
    budget.started(trial)
    for at, trains, spent in [
        (0.0, True, 0),
        (0.5, True, 0.5),
        (0.5, False, 0.5),
        (24.0, False, 0.5),
        (24.5, True, 0.5),
    ]:
        now[0] = at
        budget.note_training(lambda id, trains=trains: trains)  # type: ignore[misc]
        assert budget.spent_hours == spent
    assert all(map(budget.affordable(), others))
    now[0] = 25.0
    assert budget.spent_hours == 1
    budget.ended(trial.id, 1.25 * HOUR)
    assert budget.spent_hours == 1


def test_record_says_what_a_trial_took_of_the_time_since_its_start() -> None:
    now = [0.0]
    budget = Budget(10, {}, Expectation(lambda trial: HOUR), lambda: now[0] * HOUR)
    first, second = list(a_plan().trials.values())[:2]
    for trial in (first, second):
        budget.started(trial)
        budget.note_training(lambda id: True)
    now[0] = 1.0
    budget.ended(first.id, 0.25 * HOUR)
    assert budget.spent_hours == 1.25, "of the other one there is no record yet"
    budget.ended(second.id, None)
    assert budget.spent_hours == 1.25, "without a record all of the time counts"


def test_of_each_architecture_one_trial_of_unknown_time_is_started() -> None:
    budget = Budget(10, {}, Expectation())
    small, *others = a_plan().trials.values()
    budget.started(small)
    refused = {trial.spec.architecture for trial in others if not budget.affordable()(trial)}
    assert refused == {small.spec.architecture} and any(map(budget.affordable(), others))


@pytest.mark.timeout(120)
def test_launch_ends_when_its_budget_is_spent_and_says_what_is_left(shards: str, tmp_path: Path) -> None:
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "linear")}
    file = study_file(tmp_path, data=sharded(shards), stages=stages)
    cut = run("launch", file, "--storage", tmp_path / "runs", "--budget-gpu-hours", "1e-6", check=False)
    assert cut.returncode == 1 and "of 1e-06 GPU hours spent; left undone: linear-" in cut.stdout
    assert [record.spec.stage for record in read_records(Storage(str(tmp_path / "runs")))[0]] == ["pretrain"]
