"""Intervals of 95 % from few values: resampled seeds, and percentiles widened as Student's t widens a normal's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

from reports.remembered import remembered

Array = NDArray[np.float64]

RESAMPLES = 1000
TAIL = 0.025  # on each side
NORMAL = 1.959964  # standard normal quantile at 0.975


def student(freedom: float, tests: int = 1) -> float:
    """Student's t beyond which 5 % / `tests` lie on both sides together, for positive, also broken, degrees of freedom.

    Of so many tests the chance that any is beyond by luck is then 5 % at most (Bonferroni).
    """
    assert freedom > 0
    return float(stdtrit(freedom, 1 - TAIL / tests))


def values_of(trials: pd.DataFrame, ids: Sequence[Sequence[str]], metric: str = "top1") -> list[Array]:
    """The metric of the trials of each cell, one array a cell."""
    known = remembered(
        trials, ("values", metric), lambda: dict(zip(trials["id"].tolist(), trials[metric].tolist(), strict=True))
    )
    return [np.array([known[id] for id in cell], np.float64) for cell in ids]


def resampled_means(cells: Sequence[Array], generator: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Means of seeds drawn with replacement within each cell: (resamples, cells).

    Deviations grow by sqrt(n / (n - 1)), because n values resampled spread by the biased standard deviation. A cell
    with a single value does not move: whether that can be called an interval is the caller's to say.
    """
    means = np.empty((resamples, len(cells)))
    for column, values in enumerate(cells):
        n, mean = len(values), values.mean()
        drawn = values[generator.integers(n, size=(resamples, n))].mean(axis=1)
        means[:, column] = mean + math.sqrt(n / max(n - 1, 1)) * (drawn - mean)
    return means


def seed_freedom(cells: Sequence[Array]) -> int:
    """Degrees of freedom of the spread over seeds, pooled over cells."""
    return sum(len(values) - 1 for values in cells)


def expanded_interval(center: float, draws: Array, freedom: float) -> tuple[float, float]:
    """Percentile interval of 95 % of bootstrap `draws`, stretched about `center` by Student's t over the normal
    quantile.

    With few values plain percentiles are too short; stretching makes them those of Student's t where draws are normal
    (Hesterberg 2015, section 3.3, expands the percentiles for the same reason). NaN without a degree of freedom.
    """
    if freedom <= 0:
        return math.nan, math.nan
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    stretch = student(freedom) / NORMAL
    return float(center + stretch * (low - center)), float(center + stretch * (high - center))
