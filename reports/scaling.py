"""What size and labels buy: gains of the biggest model over the smallest, and labels that another model would need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd

from reports.tables import ARCHITECTURE, best_points

SIZE = ("architecture", "parameters", "label_fraction", "labels")


@dataclass(frozen=True)
class LabelsNeeded:
    """Number of labels at which a model reaches a target: interpolated, or only a bound where it was not trained so
    far.

    `rises` is false where the model's accuracy falls somewhere with more labels; the first crossing counts then.
    """

    labels: float
    bound: Literal["about", "more than", "at most"]
    rises: bool


def labels_needed(labels: Sequence[float], accuracy: Sequence[float], target: float) -> LabelsNeeded:
    """Labels that a model needs for `target`, by piecewise-linear interpolation of its accuracy in log labels.

    `labels` (positive) and `accuracy` (same unit as `target`) are one model's results, at least one. Never
    extrapolates: a target beyond the results is censored, "more than" the most or "at most" the fewest labels tried.
    """
    curve = sorted(zip(labels, accuracy, strict=True))
    assert curve and curve[0][0] > 0
    rises = all(low[1] <= high[1] for low, high in pairwise(curve))
    if target <= curve[0][1]:
        return LabelsNeeded(curve[0][0], "about" if target == curve[0][1] else "at most", rises)
    for (few, low), (many, high) in pairwise(curve):
        if low < target <= high:
            share = (target - low) / (high - low)
            return LabelsNeeded(math.exp(math.log(few) + share * math.log(many / few)), "about", rises)
    return LabelsNeeded(curve[-1][0], "more than", rises)


def size_points(trials: pd.DataFrame, stage: str = "finetune") -> pd.DataFrame:
    """`tables.best_points` of a stage by architecture and label fraction."""
    return best_points(trials, stage, SIZE)


def has_selective_kernels(architectures: pd.Series) -> pd.Series:
    """Whether each of a column of architectures has selective kernels: bools; a name of another kind has none."""
    names = (ARCHITECTURE.fullmatch(name) for name in architectures)
    return pd.Series([named is not None and named["sk"] is not None for named in names], architectures.index, "bool")


def size_gains(points: pd.DataFrame) -> pd.DataFrame:
    """Gain in accuracy of the biggest over the smallest of all architectures, one row a label fraction that has both.

    Columns: label_fraction, small, large (architectures), low, high (their means, in [0, 1]), gain = high - low,
    error (the standard error of the gain over seeds; NaN when either has a single seed, or both stand at different
    settings), relative = gain / low.
    """
    rows = []
    if points["parameters"].nunique() > 1:
        small, large = (points.loc[points["parameters"] == size].iloc[0]["architecture"] for size in _extremes(points))
        for fraction in sorted(points["label_fraction"].unique()):
            group = points[points["label_fraction"] == fraction]
            low, high = (group[group["architecture"] == name] for name in (small, large))
            if len(low) and len(high):
                rows.append(_gain(fraction, low.iloc[0], high.iloc[0]))
    return pd.DataFrame(rows, columns=["label_fraction", "small", "large", "low", "high", "gain", "error", "relative"])


def standard_error(stds: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Standard error of a difference of means of independent samples, and its degrees of freedom (Welch 1947).

    NaN, and no degree of freedom, where one sample has a single value.
    """
    if min(counts) < 2:
        return math.nan, 0.0
    variances = [std**2 / count for std, count in zip(stds, counts, strict=True)]
    return math.sqrt(sum(variances)), _degrees_of_freedom(variances, [count - 1 for count in counts])


def _degrees_of_freedom(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Of a sum of independent variances of means with known degrees of freedom (Welch and Satterthwaite)."""
    if sum(variances) == 0:
        return sum(freedoms)
    terms = (variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / sum(terms)


def _extremes(points: pd.DataFrame) -> tuple[int, int]:
    return points["parameters"].min(), points["parameters"].max()


def _gain(fraction: float, low: pd.Series, high: pd.Series) -> dict[str, object]:
    gain = high["mean"] - low["mean"]
    error, _ = standard_error([low["std"], high["std"]], [low["n"], high["n"]])
    return {
        "label_fraction": fraction,
        "small": low["architecture"],
        "large": high["architecture"],
        "low": low["mean"],
        "high": high["mean"],
        "gain": gain,
        "error": math.nan if low["apart"] or high["apart"] else error,
        "relative": gain / low["mean"] if low["mean"] else math.nan,
    }
