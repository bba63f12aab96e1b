"""What adaptive exploration saves: `python -m benchmarks.explore [--seeds N]`.

Three ways through a grid, side by side: at random, the smallest model first, and `study.explore` with half of the full
grid's device-hours. Two grids: the paper's Table 1 as a lookup table, and surfaces whose best model is not the biggest.
For each way the tables say how much of the full grid's hypervolume (accuracy against log FLOPs of a cell's own whole
model, its pretraining included) is there after a quarter and half of the full grid's device-hours, and how many
device-hours and cells 95 % of it take: the median over seeds, with the quartiles. A pretraining is paid once, whoever
pays it first.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray

from reports import paper
from study.cells import Cell
from study.explore import DIRECTIONS, Explorer
from study.load import load_study
from study.plan import ExpectedImages, make_plan

Floats = NDArray[np.float64]
FLOPS_PER_HOUR = 150e12 * 3600  # of one device, as in the preset; shares of hours do not depend on it
ENOUGH = 0.95
PATIENCE = 10
TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Grid:
    """Cells with the trainings that each takes, in device-hours, and what they would turn out to be, (cells,) each."""

    cells: list[Cell]
    work: list[dict[str, float]]
    flops: Floats
    accuracies: Floats


@dataclass(frozen=True)
class Walk:
    """After each cell of one way through a grid: the share of the full grid's hours spent, and the cells so far."""

    grid: Grid
    order: list[int]
    spent: Floats

    def volumes(self, reference: tuple[float, float]) -> Floats:
        """Share of the full grid's hypervolume after each cell."""
        costs, accuracies = np.log(self.grid.flops), self.grid.accuracies
        so_far = [self.order[: n + 1] for n in range(len(self.order))]
        found = np.array([hypervolume(costs[cells], accuracies[cells], reference) for cells in so_far])
        return found / hypervolume(costs, accuracies, reference)

    def volume_at(self, share: float, reference: tuple[float, float]) -> float:
        """Share of the hypervolume that the cells make which finished within a share of the hours."""
        return float(self.volumes(reference)[self.spent <= share + 1e-9].max(initial=0))

    def needed(self, volume: float, reference: tuple[float, float]) -> tuple[float, float]:
        """Shares of hours and cells that a share of the hypervolume takes; infinite if the way ends before."""
        enough = np.flatnonzero(self.volumes(reference) >= volume)
        return (self.spent[enough[0]], (enough[0] + 1) / len(self.grid.cells)) if len(enough) else (math.inf, math.inf)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=50)
    seeds = range(parser.parse_args().seeds)
    table_1 = paper_table_1()
    found = compare("the paper's Table 1", [table_1 for _ in seeds])
    compare("surfaces with a best size somewhere", [surface(seed) for seed in seeds])
    alone = [walk(table_1, explored(table_1, seed, PATIENCE)) for seed in seeds]
    ends = [
        quartiles(values) for values in ([w.spent[-1] for w in alone], [w.volume_at(1, corner(table_1)) for w in alone])
    ]
    print(
        f"\nTable 1 with a patience of {PATIENCE} cells: it ends after {ends[0]} of the hours, "
        f"with {ends[1]} of the volume"
    )
    needed = np.median([walk.needed(ENOUGH, corner(walk.grid))[0] for walk in found])
    verdict = "reached" if needed <= 0.5 else "MISSED"
    print(f"95 % of Table 1's hypervolume with at most half of its device-hours, median: {verdict} ({needed:.1%})")


def compare(name: str, grids: list[Grid]) -> list[Walk]:
    """Print a grid's tables, the same ways seen from two reference points; returns the exploration's ways."""
    ways: dict[str, list[Walk]] = {
        "random order": [walk(grid, random_order(grid, seed)) for seed, grid in enumerate(grids)],
        "smallest first": [walk(grid, smallest_first(grid)) for grid in grids],
        "exploration": [walk(grid, explored(grid, seed, len(grid.cells))) for seed, grid in enumerate(grids)],
    }
    print(f"\n{name}: {len(grids[0].cells)} cells, {total_hours(grids[0]):,.0f} device-hours, {len(grids)} seeds")
    for reference, described in (
        (corner, "reference point: FLOPs of the dearest cell, accuracy of the worst"),
        (origin, "reference point: twice those FLOPs, accuracy 0"),
    ):
        titles = ("volume at 25 %", "at 50 % of the hours", "hours for 95 %", "cells for 95 %")
        print(f"{described}\n{'':<16}" + "".join(f"{title:>25}" for title in titles))
        for way, walks in ways.items():
            columns = [[walk.volume_at(share, reference(walk.grid)) for walk in walks] for share in (0.25, 0.5)]
            needed = [walk.needed(ENOUGH, reference(walk.grid)) for walk in walks]
            columns += [[hours for hours, _ in needed], [cells for _, cells in needed]]
            print(f"{way:<16}" + "".join(f"{quartiles(values):>25}" for values in columns))
    return ways["exploration"]


def hypervolume(costs: ArrayLike, accuracies: ArrayLike, reference: tuple[float, float]) -> float:
    """Area between the front of some cells and a reference point (a cost, an accuracy).

    It is the area of all points that are better than the reference in both and no better than one of the cells in
    both. `costs` (lower is better) and `accuracies` (higher is better) are (n,). The unit is that of a cost times an
    accuracy; pass logarithms of costs for an area in which every doubling counts the same.
    """
    costs, accuracies = np.asarray(costs, np.float64), np.asarray(accuracies, np.float64)
    area, best = 0.0, reference[1]
    for i in np.lexsort((-accuracies, costs)):
        area += max(0.0, reference[0] - costs[i]) * max(0.0, accuracies[i] - best)
        best = max(best, accuracies[i])
    return float(area)


def quartiles(values: list[float]) -> str:
    """Median and, in brackets, the quartiles, in percent."""
    low, middle, high = (
        "-" if math.isinf(value) else f"{100 * value:.1f}"
        for value in np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    )
    return f"{middle} % ({low} to {high})"


def corner(grid: Grid) -> tuple[float, float]:
    """The reference point that leaves out all that every cell has in common: its area is nothing but the choice."""
    return math.log(grid.flops.max()), float(grid.accuracies.min())


def origin(grid: Grid) -> tuple[float, float]:
    """A reference point outside the grid, for which each cell counts, the dearest and the worst as well."""
    return math.log(2 * grid.flops.max()), 0.0


def total_hours(grid: Grid) -> float:
    return sum({id: hours for needed in grid.work for id, hours in needed.items()}.values())


def walk(grid: Grid, order: list[int]) -> Walk:
    paid: dict[str, float] = {}
    spent = []
    for cell in order:
        paid |= grid.work[cell]
        spent.append(math.fsum(paid.values()))
    return Walk(grid, order, np.array(spent) / total_hours(grid))


def random_order(grid: Grid, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng(seed).permutation(len(grid.cells)).tolist()
    return order


def smallest_first(grid: Grid) -> list[int]:
    order: list[int] = np.argsort(grid.flops, kind="stable").tolist()
    return order


def explored(grid: Grid, seed: int, patience: int) -> list[int]:
    """Cells in the order in which the explorer asks for them, with half of the full grid's hours as its budget."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    explorer = Explorer(
        grid.cells,
        grid.work,
        grid.flops.tolist(),
        budget=0.5 * total_hours(grid),
        patience=patience,
        seed=seed,
        optuna_study=optuna.create_study(directions=DIRECTIONS),
    )
    order = []
    while (cell := explorer.ask()) is not None:
        explorer.tell(cell, float(grid.accuracies[cell]))
        order.append(cell)
    return order


def paper_table_1() -> Grid:
    """Thirteen architectures fine-tuned on three label fractions: the paper's top-1, the FLOPs of the preset's plan."""
    study = load_study("study/presets/imagenet-table1.yaml")
    trials = make_plan(study, ExpectedImages.of(study)).trials
    printed = paper.table_1().query("stage == 'finetune'").set_index(["architecture", "label_fraction"])["top1"]
    cells: list[Cell] = []
    work, accuracies = [], []
    for trial in trials.values():
        if trial.spec.stage == "finetune":
            assert trial.spec.parent is not None
            fraction = trial.spec.settings.model_dump()["label_fraction"]
            cells.append({"architecture": trial.spec.architecture, "label_fraction": fraction})
            flops = {trial.spec.parent: trials[trial.spec.parent].train_flops, trial.id: trial.train_flops}
            work.append({id: operations / FLOPS_PER_HOUR for id, operations in flops.items()})
            accuracies.append(float(printed[trial.spec.architecture, fraction]))
    return Grid(cells, work, flops_of(work), np.array(accuracies))


def surface(seed: int) -> Grid:
    """A noisy made-up grid: 6 architectures x 4 head layers x 5 temperatures, children at 25 % of their pretraining.

    Accuracy falls with the distance (in doublings) from a best size, drawn anywhere in the range of 32 to 1, and with
    the distance from a best head layer and a best temperature, drawn too; each architecture and each cell have their
    own luck.
    """
    rng = np.random.default_rng((seed, 8))
    best_size, best_layer, best_temperature = rng.uniform(0, 5), rng.integers(4), rng.integers(5)
    luck = rng.normal(0, 0.015, 6)
    cells: list[Cell] = []
    work, accuracies = [], []
    for size, layer, temperature in itertools.product(range(6), range(4), range(5)):
        pretraining = 2.0**size
        cells.append({"architecture": f"a{size}", "head_layer": layer, "temperature": TEMPERATURES[temperature]})
        work.append({f"pretrain-{size}": pretraining, f"child-{size}-{layer}-{temperature}": 0.25 * pretraining})
        settings = 0.03 * abs(layer - best_layer) + 0.02 * abs(temperature - best_temperature)
        accuracies.append(0.8 - 0.015 * (size - best_size) ** 2 - settings + luck[size] + rng.normal(0, 0.01))
    return Grid(cells, work, flops_of(work), np.array(accuracies))


def flops_of(work: list[dict[str, float]]) -> Floats:
    return FLOPS_PER_HOUR * np.array([math.fsum(needed.values()) for needed in work])


if __name__ == "__main__":
    main()
