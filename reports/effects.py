"""Effects with intervals over seeds and architectures, from results that are paired wherever both sides exist."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from reports.comparable import CAVEATS, NAMED, allowed, joined, keys_of, with_caveats
from reports.intervals import Array, student

Design = Literal["mean", "size", "slope", "kernels"]

NO_SEED = -1  # of a paper's results, which name none
LEFT: dict[Design, int] = {"mean": 1, "size": 2, "slope": 2, "kernels": 2}
"""Degrees of freedom from which what a design leaves of architectures is called their spread: with three sizes, what is
left of a line is its curvature."""


@dataclass(frozen=True)
class Effect:
    """An effect with its 95 % interval and what it rests on.

    `seeds` are the fewest of any architecture (1: no seeds are known). `limited_by` says of what more would narrow the
    interval, `freedom` the degrees of freedom of the error that was used, and `fixed` that architectures are too few to
    be a sample: the interval is then over seeds, for these.
    """

    value: float
    low: float
    high: float
    freedom: int
    seeds: int
    architectures: int
    limited_by: Literal["seeds", "architectures"]
    fixed: bool


def side(trials: pd.DataFrame, keys: Sequence[str], across: Sequence[str] = ("architecture",)) -> pd.DataFrame:
    """One side of a comparison: for each value of `keys` and each seed the variant that is best by the other seeds.

    Chosen among what may be compared between the values of `across` (`comparable.allowed`). A variant chosen by the
    very results that are compared would win by luck where more variants were tried. A single seed has no others and is
    chosen by itself. A seed without the variant that its others choose has no row: a worse one would not stand for it.

    Columns: `keys`, seed, top1 (in [0, 1]), id, those of `comparable.with_caveats`, other columns of `trials`.
    """
    rows = trials[trials["top1"].notna()]
    rows = rows.assign(seed=rows["seed"].fillna(NO_SEED)).reset_index(drop=True)
    cells_of = keys_of(rows, keys)
    seeds: dict[tuple[object, ...], dict[int, int]] = {}  # cell and variant -> seed -> row
    for row, (cell, variant, seed) in enumerate(
        zip(cells_of, rows["variant"].tolist(), rows["seed"].tolist(), strict=True)
    ):
        seeds.setdefault((cell, variant), {}).setdefault(seed, row)
    top1 = rows["top1"].tolist()
    cells = rows.loc[
        [min(found.values()) for found in seeds.values()], [*keys, *(n for n in NAMED if n not in keys), "setting"]
    ]
    values = [[top1[row] for row in found.values()] for found in seeds.values()]
    cells = cells.assign(n=[len(of) for of in values], mean=[sum(of) / len(of) for of in values])
    kept = allowed(cells, keys, across)
    may = set(kept.index)
    chosen = _by_other_seeds({pair: found for pair, found in seeds.items() if min(found.values()) in may}, top1)
    told = with_caveats(kept[kept.index.isin(chosen.values())], cells.drop(kept.index), keys, across)
    picked = rows.loc[list(chosen)]
    picked = picked.assign(**{name: told.loc[list(chosen.values()), name].tolist() for name in CAVEATS})
    return picked.sort_values([*keys, "seed"]).reset_index(drop=True)


def _by_other_seeds(seeds: Mapping[tuple[object, ...], Mapping[int, int]], top1: Sequence[float]) -> dict[int, int]:
    """For each cell and seed the row of the best variant, and the first row of that variant; `seeds` are rows by cell
    and variant, and seed."""
    variants: dict[object, list[Mapping[int, int]]] = {}
    for (cell, _), found in seeds.items():
        variants.setdefault(cell, []).append(found)

    def score(found: Mapping[int, int], seed: int) -> float:
        others = [top1[row] for other, row in found.items() if other != seed] or [top1[row] for row in found.values()]
        return sum(others) / len(others)

    chosen = {}
    for of_cell in variants.values():
        for seed in sorted(set().union(*of_cell)):
            best = max(of_cell, key=lambda found: score(found, seed))
            if seed in best:
                chosen[best[seed]] = min(best.values())
    return chosen


def paired(better: pd.DataFrame, worse: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Differences in points between two of `side`, for `keys` (architecture among them) and seeds that both have.

    Columns: `keys`, seed, parameters, value, ids, and those of `comparable.with_caveats` of both.
    """
    columns = [*keys, "seed", "top1", "id", *CAVEATS]
    both = better[[*columns, "parameters"]].merge(worse[columns], on=[*keys, "seed"], suffixes=("", "_worse"))
    both["value"] = 100 * (both["top1"] - both["top1_worse"])
    both["ids"] = list(zip(both["id"], both["id_worse"], strict=True))
    both["caveat"] = list(map(joined, zip(both["caveat"], both["caveat_worse"], strict=True)))
    for name in ("apart", "worse"):
        both[name] |= both[f"{name}_worse"]
    return both[[*keys, "seed", "parameters", "value", "ids", *CAVEATS]]


def by_architecture(differences: pd.DataFrame) -> pd.DataFrame:
    """Mean over everything but architecture and seed, with the ids and caveats of all: one row an architecture and
    seed."""
    grouped = differences.groupby(["architecture", "seed"], sort=True)
    return grouped.agg(
        parameters=("parameters", "first"),
        value=("value", "mean"),
        ids=("ids", _flat),
        caveat=("caveat", joined),
        apart=("apart", "any"),
        worse=("worse", "any"),
    ).reset_index()


def _flat(cells: pd.Series) -> list[str]:
    return [id for ids in cells for id in ids]


def estimate(cells: pd.DataFrame, design: Design) -> Effect | None:
    """Effect of `cells` (architecture, parameters, seed, value; for "slope" x, for "kernels" selective_kernels): None
    where no interval follows.

    "mean" is the mean over architectures; "size" the slope over log10 of parameters, "slope" that over x; "kernels" the
    gain by selective kernels at equal parameters, in a plane over log10 of parameters. Each is a linear function of the
    architectures' means, fitted by least squares.

    The error comes from the larger of two mean squares, with its own degrees of freedom: that between architectures
    (what the design leaves of their means, seed noise included) and that between the seeds of an architecture, pooled.
    The first alone would be right if architectures were many; the second alone would call what these few happen to do a
    law. Where fewer than `LEFT` degrees of freedom are left between architectures, it is the second, for these.
    """
    groups = [group for _, group in cells.groupby("architecture", sort=True)]
    matrix = _matrix(groups, design)
    a, p = matrix.shape
    if a < p or np.linalg.matrix_rank(matrix) < p:
        return None
    means = np.array([group["value"].mean() for group in groups])
    counts = np.array([len(group) for group in groups])
    weights = np.linalg.pinv(matrix)[-1]
    left = means - matrix @ (np.linalg.pinv(matrix) @ means)
    errors: list[tuple[float, int, Literal["seeds", "architectures"]]] = []
    fixed = a - p < LEFT[design]
    if not fixed:
        errors.append((float(left @ left) / (a - p) * float(weights @ weights), a - p, "architectures"))
    if (freedom := int((counts - 1).sum())) > 0:
        squares = sum(((group["value"] - group["value"].mean()) ** 2).sum() for group in groups)
        errors.append((float(squares / freedom * (weights**2 / counts).sum()), freedom, "seeds"))
    if not errors:
        return None
    variance, freedom, limited_by = max(errors, key=lambda error: (error[0], error[1]))
    value, half = float(weights @ means), student(freedom) * math.sqrt(variance)
    return Effect(value, value - half, value + half, freedom, int(counts.min()), a, limited_by, fixed)


def _matrix(groups: Sequence[pd.DataFrame], design: Design) -> Array:
    ones = np.ones(len(groups))
    if design == "mean":
        return ones[:, None]
    if design == "slope":
        x = np.array([float(group["x"].iloc[0]) for group in groups])
        return np.column_stack([ones, x - x.mean() if len(x) else x])
    size = np.log10([float(group["parameters"].iloc[0]) for group in groups])
    size -= size.mean() if len(size) else 0.0
    if design == "size":
        return np.column_stack([ones, size])
    kernels = [float(group["selective_kernels"].iloc[0]) for group in groups]
    return np.column_stack([ones, size, kernels])
