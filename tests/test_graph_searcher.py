from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from studies import tiny_study
from study.plan import ExpectedImages, Plan, make_plan
from study.schedule import Schedule, TrialEnding, predecessors
from study.searcher import GraphSearcher

GRID = {"architecture": ["r10w0.0625", "r10"], "label_fraction": [0.1, 1.0], "temperature": [0.1, 1.0]}


def a_plan(finished: tuple[str, ...] = (), **changes: Any) -> Plan:
    return make_plan(tiny_study(grid=GRID, **changes), ExpectedImages(200, 10), finished)


def run(plan: Plan, slots: int, fails: tuple[str, ...] = ()) -> tuple[list[str], Schedule]:
    """Drive a searcher as Tune does, first in first out; returns the order of starts and the schedule."""
    records = set(plan.finished)
    schedule = Schedule(plan, slots)
    searcher = GraphSearcher(
        schedule.next,
        lambda id: schedule.ended(id, "done" if id in records else "failed"),
        lambda trial: {"id": trial.id},
    )
    started: list[str] = []
    running: list[str] = []
    while True:
        config = searcher.suggest(f"tune-{len(started)}")
        if isinstance(config, dict):
            id = config["id"]
            assert set(predecessors(plan.trials[id])) <= records
            searcher_id = f"tune-{len(started)}"
            running.append(searcher_id)
            started.append(id)
            assert schedule.workers_in_flight <= slots
        elif running:
            done = running.pop(0)
            id = searcher.ids[done]
            if id not in fails:
                records.add(id)
            searcher.on_trial_complete(done, {}, error=id in fails)
        else:
            assert config == GraphSearcher.FINISHED
            return started, schedule


def test_every_trial_runs_once_and_after_its_parent() -> None:
    plan = a_plan()
    started, schedule = run(plan, slots=3)
    assert sorted(started) == sorted(plan.trials)
    assert set(schedule.states.values()) == {"done"}


def test_trial_that_waits_for_several_starts_after_all_of_them() -> None:
    plan = a_plan()
    waits = next(id for id in plan.trials if id.startswith("linear-r10w"))
    others = tuple(id for id in plan.trials if id.startswith(("pretrain-r10-", "supervised-r10-")))
    trials = {id: trial for id, trial in plan.trials.items() if id != waits}
    trials[waits] = dataclasses.replace(plan.trials[waits], after=others)
    for slots in (1, 2, 4):
        started, _ = run(dataclasses.replace(plan, trials=trials), slots)
        assert sorted(started) == sorted(trials)
        assert max(started.index(other) for other in others) < started.index(waits)


def test_the_longest_chain_starts_first() -> None:
    started, _ = run(a_plan(), slots=2)
    assert started[0].startswith("pretrain-r10-")


def test_finished_trials_do_not_run_again() -> None:
    plan = a_plan()
    done = tuple(id for id in plan.trials if id.startswith(("pretrain", "finetune")))
    started, _ = run(a_plan(done), slots=2)
    assert sorted(started) == sorted(set(plan.trials) - set(done))


def test_descendants_of_a_failure_are_skipped_and_the_rest_goes_on() -> None:
    plan = a_plan()
    failing = next(id for id in plan.trials if id.startswith("pretrain-r10-"))
    _, schedule = run(plan, slots=2, fails=(failing,))
    states = schedule.states
    assert states[failing] == "failed"
    for id, trial in plan.trials.items():
        small = trial.spec.architecture == "r10w0.0625"
        expected = "done" if small or trial.spec.stage == "supervised" else "failed" if id == failing else "skipped"
        assert states[id] == expected, id


@pytest.mark.parametrize("ending", ["pruned", "failed"])
def test_trial_that_is_added_when_what_it_needs_has_ended_badly_is_skipped(ending: TrialEnding) -> None:
    plan = a_plan()
    first = next(iter(plan.trials))
    child = next(trial for trial in plan.trials.values() if trial.spec.parent == first)
    schedule = Schedule(dataclasses.replace(plan, trials={first: plan.trials[first]}), 1)
    assert schedule.next() == plan.trials[first]
    assert schedule.ended(first, ending) == [(first, ending)]
    schedule.add([child])
    assert schedule.states == {first: ending, child.id: "skipped"} and schedule.next() == "end"


def test_a_wide_trial_is_not_starved_by_narrow_ones() -> None:
    plan = a_plan(execution={"workers": {"default": 1, "r10": 2}, "per_worker": {"CPU": 1}})
    started, _ = run(plan, slots=2)
    assert sorted(started) == sorted(plan.trials)
    assert started[0].startswith("pretrain-r10-")
