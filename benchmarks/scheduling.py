"""How good the order of a launch is: `python -m benchmarks.scheduling`.

The full grid of the paper's Table 1 (13 architectures x 3 label fractions x 4 head layers x 5 temperatures: 780 cells,
949 trainings once shared ones are merged), against simulated time. A training's time is its
operations over its workers. Ray Tune's side of it, the searcher, is the one that a launch uses.

Beside the searcher: what a plain loop over stages does (a barrier after each, the grid's order within), and first in,
first out in the plan's order without barriers. The bound is max(all work / devices, longest chain of parents and
children): no order is faster.
"""

from __future__ import annotations

import sys
import time
from typing import Literal

from study.load import load_study
from study.plan import ExpectedImages, Plan, PlannedTrial, make_plan
from study.schedule import Schedule, TrialEnding
from study.searcher import GraphSearcher
from study.simulate import SimulatedClock, critical_path, simulate
from trainables.spec import STAGES

PRESET = "study/presets/imagenet-table2.yaml"
THIRTEEN = "r50, r50sk, r50w2, r50w2sk, r101, r101sk, r101w2, r101w2sk, r152, r152sk, r152w2, r152w2sk, r152w3sk"
GRID = (
    f"architecture: [{THIRTEEN}], label_fraction: [0.01, 0.1, 1.0], head_layer: [0, 1, 2, 3], "
    "temperature: [0.1, 0.2, 0.5, 1.0, 2.0], stages: [pretrain, finetune, distill]"
)
ORDER = {stage: number for number, stage in enumerate(STAGES)}
MOST = 1.05  # times the bound


def main() -> None:
    print("one device each")
    worst = compare(table_1("1"), (8, 16, 32, 64, 512))
    print(f"limit for the searcher: {MOST} x the bound\n")
    print("as many workers as in the preset, 8 to 64 a training, started together")
    compare(table_1("{default: 8, 'r50*': 8, 'r101*': 16, r152w3sk: 64, 'r152*': 32}"), (64, 128, 512))
    if worst > MOST:
        sys.exit("the limit is exceeded")


def compare(plan: Plan, numbers: tuple[int, ...]) -> float:
    """Print makespans over their bound, one line for each number of devices; the searcher's worst."""
    device_seconds = sum(trial.train_flops for trial in plan.trials.values())
    seconds = {id: trial.train_flops / trial.workers for id, trial in plan.trials.items()}
    chain, longest = critical_path(plan, seconds)
    print(f"{plan.cells} cells, {len(plan.trials)} trainings; longest chain: {' -> '.join(chain)}")
    print(f"{'':9}{'makespan / bound':^36}{'':10}{'searcher,':>20}")
    print(f"{'devices':>9}{'searcher':>12}{'in order':>12}{'barriers':>12}{'bound is':>10}{'us a training':>20}")
    worst = 0.0
    for devices in numbers:
        bound = max(device_seconds / devices, longest)
        clock = SimulatedClock()
        searcher = ThroughSearcher(plan, seconds, devices, clock)
        ratios = [simulate(searcher, seconds, devices, clock).makespan / bound]
        for barriers in (False, True):
            order = InOrder(plan, devices, barriers=barriers)
            ratios.append(simulate(order, seconds, devices, SimulatedClock()).makespan / bound)
        which = "work" if device_seconds / devices > longest else "chain"
        spent = 1e6 * searcher.spent / len(plan.trials)
        print(f"{devices:>9}" + "".join(f"{ratio:>12.3f}" for ratio in ratios) + f"{which:>10}{spent:>20.1f}")
        worst = max(worst, ratios[0])
    return worst


def table_1(workers: str) -> Plan:
    """The full grid: pretrainings, fine-tunings from every head layer, and distillations at every temperature."""
    study = load_study(PRESET, [f"grid={{{GRID}}}", f"execution.workers={workers}"])
    plan = make_plan(study, ExpectedImages.of(study))
    assert (plan.cells, len(plan.trials)) == (780, 949), (plan.cells, len(plan.trials))
    return plan


class ThroughSearcher:
    """The searcher as Tune asks it, and the seconds that it takes to answer."""

    def __init__(self, plan: Plan, seconds: dict[str, float], devices: int, clock: SimulatedClock) -> None:
        self.plan, self.spent, self.asked = plan, 0.0, 0
        schedule = Schedule(plan, devices, seconds=lambda trial: seconds[trial.id], clock=clock)
        self.searcher = GraphSearcher(
            schedule.next, lambda id: schedule.ended(id, "done"), lambda trial: {"id": trial.id}
        )
        self.names: dict[str, str] = {}

    def next(self) -> PlannedTrial | Literal["wait", "end"]:
        name = f"trial-{self.asked}"
        self.asked += 1
        started = time.perf_counter()
        found = self.searcher.suggest(name)
        self.spent += time.perf_counter() - started
        if not isinstance(found, dict):
            return "wait" if found is None else "end"
        self.names[found["id"]] = name
        return self.plan.trials[found["id"]]

    def ended(self, id: str, ending: TrialEnding) -> None:
        started = time.perf_counter()
        self.searcher.on_trial_complete(self.names[id], {})
        self.spent += time.perf_counter() - started


class InOrder:
    """What one writes without a graph: the first trial in the plan's order whose parent is done, and with `barriers`
    none of a stage before all of the stages above it have ended."""

    def __init__(self, plan: Plan, devices: int, *, barriers: bool) -> None:
        self.plan, self.free, self.barriers = plan, devices, barriers
        self.waiting = (
            sorted(plan.trials, key=lambda id: ORDER[plan.trials[id].spec.stage]) if barriers else list(plan.trials)
        )
        self.running: set[str] = set()
        self.done: set[str] = set()

    def next(self) -> PlannedTrial | Literal["wait", "end"]:
        if not self.waiting:
            return "end"
        for id in self.waiting:
            trial = self.plan.trials[id]
            if self.barriers and any(
                ORDER[self.plan.trials[one].spec.stage] < ORDER[trial.spec.stage] for one in self.running
            ):
                return "wait"
            if trial.spec.parent is None or trial.spec.parent in self.done:
                if trial.workers > self.free:
                    return "wait"
                self.waiting.remove(id)
                self.running.add(id)
                self.free -= trial.workers
                return trial
        return "wait"

    def ended(self, id: str, ending: TrialEnding) -> None:
        self.running.remove(id)
        self.done.add(id)
        self.free += self.plan.trials[id].workers


if __name__ == "__main__":
    main()
