"""Simulated launches against a clock that ticks second by second, and against bounds that hold for any order."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from studies import tiny, tiny_study
from study.plan import ExpectedImages, Plan, make_plan
from study.schedule import Schedule, TrialEnding
from study.searcher import GraphSearcher
from study.simulate import SimulatedClock, critical_path, simulate, simulate_plan

GRID = {"architecture": ["r10w0.0625", "r10"], "label_fraction": [0.1, 1.0], "temperature": [0.1, 1.0]}
GANGS = {"workers": {"default": 1, "r10": 2}, "per_worker": {"CPU": 1}}


def a_plan(finished: tuple[str, ...] = (), **changes: Any) -> Plan:
    return make_plan(tiny_study(grid=GRID, **changes), ExpectedImages(200, 10), finished)


def whole_seconds(plan: Plan, seed: int) -> dict[str, float]:
    chance = random.Random(seed)
    return {id: float(chance.randint(1, 9)) for id in plan.trials}


def descendants_flops(plan: Plan, id: str) -> float:
    """FLOPs of the longest chain from a trial down, by recursion."""
    below = [descendants_flops(plan, child) for child, trial in plan.trials.items() if trial.spec.parent == id]
    return plan.trials[id].train_flops + max(below, default=0.0)


def earliest(running: dict[str, float], plan: Plan, devices: int, workers: int, now: int) -> int:
    """The first second from now on in which so many workers fit, if nothing else starts."""
    for second in itertools.count(now):
        if sum(plan.trials[id].workers for id, end in running.items() if end > second) + workers <= devices:
            return second
    raise AssertionError


def ticking(plan: Plan, seconds: dict[str, float], devices: int) -> dict[str, tuple[float, float]]:
    """Start and end of every trial: each second, what has ended frees its devices, then the most urgent start.

    From the first that does not fit on, one starts only if that one could not start sooner without it.
    """
    order = sorted(plan.missing(), key=lambda id: -descendants_flops(plan, id))
    done, running, runs = set(plan.finished), dict[str, float](), dict[str, tuple[float, float]]()
    for now in itertools.count():
        ended = [id for id, end in running.items() if end == now]
        done |= set(ended)
        running = {id: end for id, end in running.items() if end != now}
        waits: int | None = None
        for id in order:
            if id in runs or not (plan.trials[id].spec.parent in done or plan.trials[id].spec.parent is None):
                continue
            workers, with_it = plan.trials[id].workers, running | {id: now + seconds[id]}
            if sum(plan.trials[one].workers for one in running) + workers > devices:
                waits = waits or workers
                continue
            if waits and earliest(with_it, plan, devices, waits, now) > earliest(running, plan, devices, waits, now):
                continue
            running[id] = now + seconds[id]
            runs[id] = (now, now + seconds[id])
        if not running:
            return runs
    raise AssertionError


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("devices", [2, 3, 7])
@pytest.mark.parametrize("execution", [{"workers": 1, "per_worker": {"CPU": 1}}, GANGS])
def test_trials_start_and_end_as_on_a_ticking_clock(seed: int, devices: int, execution: dict[str, Any]) -> None:
    finished = tuple(id for id in a_plan().trials if id.startswith("pretrain"))[: seed % 2]
    plan = a_plan(finished, execution=execution)
    seconds = whole_seconds(plan, seed)
    found = simulate_plan(plan, seconds, devices)
    assert {id: (run.start, run.end) for id, run in found.runs.items()} == ticking(plan, seconds, devices)
    assert found.makespan == max(run.end for run in found.runs.values())
    held = sum(plan.trials[id].workers * seconds[id] for id in plan.missing())
    assert found.busy == pytest.approx(held / (devices * found.makespan))


def test_one_device_takes_all_the_work_and_many_the_longest_chain() -> None:
    plan = a_plan()
    seconds = whole_seconds(plan, 0)
    alone, many = simulate_plan(plan, seconds, 1), simulate_plan(plan, seconds, 1000)
    chain, longest = critical_path(plan, seconds)
    assert alone.makespan == sum(seconds.values()) and alone.busy == 1
    assert many.makespan == longest == sum(seconds[id] for id in chain)


def test_critical_path_is_the_longest_of_all_chains() -> None:
    plan = a_plan()
    for seed in range(5):
        seconds = whole_seconds(plan, seed)
        chains = []
        for id in plan.trials:
            chain, parent = [id], plan.trials[id].spec.parent
            while parent is not None:
                chain.insert(0, parent)
                parent = plan.trials[parent].spec.parent
            chains.append(chain)
        found, longest = critical_path(plan, seconds)
        assert longest == max(sum(seconds[id] for id in chain) for chain in chains)
        assert found in chains


def test_what_has_finished_takes_no_time() -> None:
    plan = a_plan(tuple(a_plan().trials))
    assert simulate_plan(plan, {}, 2).makespan == 0 and critical_path(plan, {}) == ([], 0.0)
    [pretrained] = [id for id in a_plan().trials if id.startswith("pretrain-r10-")]
    chain, _ = critical_path(a_plan((pretrained,)), dict.fromkeys(a_plan().trials, 1.0))
    assert len(chain) == 3 and chain[0].startswith("pretrain-r10w0.0625")


def test_more_workers_than_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"r10-.* has 2 workers, more than 1 device; give more with --devices"):
        simulate_plan(a_plan(execution=GANGS), dict.fromkeys(a_plan().trials, 1.0), 1)


class ThroughSearcher:
    """A schedule as Tune sees it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.tune_ids = schedule, dict[str, str]()
        self.searcher = GraphSearcher(
            schedule.next, lambda id: schedule.ended(id, "done"), lambda trial: {"id": trial.id}
        )

    def next(self) -> Any:
        tune_id = f"tune-{len(self.tune_ids)}"
        config = self.searcher.suggest(tune_id)
        if not isinstance(config, dict):
            return "wait" if config is None else "end"
        self.tune_ids[config["id"]] = tune_id
        return self.schedule.trials[config["id"]]

    def ended(self, id: str, ending: TrialEnding) -> None:
        self.searcher.on_trial_complete(self.tune_ids[id], {})


def test_the_searcher_of_a_launch_runs_what_was_simulated() -> None:
    plan = a_plan(execution=GANGS)
    seconds = whole_seconds(plan, 1)
    clock = SimulatedClock()
    schedule = Schedule(plan, 3, seconds=lambda trial: seconds[trial.id], clock=clock)
    assert simulate(ThroughSearcher(schedule), seconds, 3, clock) == simulate_plan(plan, seconds, 3)


@pytest.mark.parametrize(
    ("factor", "beside", "start"),
    [(1.0, 3, 10.0), (0.1, 1, 10.0), (10.0, 4, 12.0), (math.nan, 0, 10.0)],
)
def test_small_trials_run_beside_a_waiting_gang_and_delay_it_by_one_of_them_at_most(
    factor: float, beside: int, start: float
) -> None:
    """Two devices: a trial of 10 s, one of two workers, and behind it many of 3 s; predictions are off by a factor."""
    grid = {"architecture": ["r10", "r10w0.125", "r10w0.0625"], "label_fraction": [0.1], "seed": list(range(9))}
    changes = {
        "grid": grid,
        "stages": {"pretrain": tiny()["stages"]["pretrain"]},
        "execution": {"workers": {"default": 1, "r10w0.125": 2}, "per_worker": {"CPU": 1}},
    }
    ids = make_plan(tiny_study(**changes), ExpectedImages(200, 10)).trials
    bigger = [id for id in ids if not id.startswith("pretrain-r10w0.0625")]
    plan = make_plan(tiny_study(**changes), ExpectedImages(200, 10), [id for id in bigger if "-s0-" not in id])
    [gang] = [id for id in plan.missing() if plan.trials[id].workers == 2]
    seconds = {id: 10.0 if id.startswith("pretrain-r10-") else 3.0 for id in plan.trials}
    clock = SimulatedClock()
    schedule = Schedule(plan, 2, seconds=lambda trial: factor * seconds[trial.id], clock=clock)
    runs = simulate(schedule, seconds, 2, clock).runs
    assert runs[gang].start == start
    assert sum(run.start < start for run in runs.values()) == beside + 1
