"""Whether one accuracy foretells another: Pearson's correlation with its interval, and the line through the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.comparable import joined
from reports.intervals import NORMAL
from reports.scaling import size_points

WIDEST = 2


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of `n` points with its 95 % interval (NaN below four points), and y = slope x + intercept by least
    squares; x and y in [0, 1]."""

    r: float
    low: float
    high: float
    slope: float
    intercept: float
    n: int
    ids: tuple[str, ...]


def correlation(x: Sequence[float], y: Sequence[float], ids: Sequence[str] = ()) -> Correlation | None:
    """Of pairs of numbers; None where fewer than two differ in x, or none in y.

    The interval is Fisher's: atanh r has a standard error of 1 / sqrt(n - 3).
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = len(xs)
    if n < 2 or np.ptp(xs) == 0 or np.ptp(ys) == 0:
        return None
    dx, dy = xs - xs.mean(), ys - ys.mean()
    slope = float(dx @ dy / (dx @ dx))
    r = float(np.clip(dx @ dy / math.sqrt((dx @ dx) * (dy @ dy)), -1, 1))
    low, high = math.nan, math.nan
    if n > 3:
        low, high = (
            math.tanh(math.atanh(r) + side / math.sqrt(n - 3)) if abs(r) < 1 else r for side in (-NORMAL, NORMAL)
        )
    return Correlation(r, low, high, slope, float(ys.mean() - slope * xs.mean()), n, tuple(ids))


def as_in_appendix_c(trials: pd.DataFrame) -> pd.DataFrame:
    """A table of trials; of the paper's own without its widest model, which the paper leaves out of this comparison
    (caption of Figure C.1)."""
    return trials[trials["width"] <= WIDEST] if (trials["source"] == "paper").all() else trials


def linear_and_finetuned(trials: pd.DataFrame, label_fraction: float) -> pd.DataFrame:
    """Architectures with both a linear evaluation (most labels) and a fine-tuning on `label_fraction` (Appendix C).

    Columns: architecture, parameters, linear, finetune (top-1 of the best setting, means over seeds), n (the fewer
    seeds of both), ids, and those of `comparable.with_caveats`.
    """
    linear = size_points(trials, "linear")
    linear = linear[linear["label_fraction"] == linear["label_fraction"].max()]
    tuned = size_points(trials, "finetune")
    tuned = tuned[tuned["label_fraction"] == label_fraction]
    both = linear.merge(tuned, on=["architecture", "parameters"], suffixes=("_linear", "_tuned"))
    return pd.DataFrame(
        {
            "architecture": both["architecture"],
            "parameters": both["parameters"],
            "linear": both["mean_linear"],
            "finetune": both["mean_tuned"],
            "n": both[["n_linear", "n_tuned"]].min(axis=1),
            "ids": [[*one, *other] for one, other in zip(both["ids_linear"], both["ids_tuned"], strict=True)],
            "caveat": list(map(joined, zip(both["caveat_linear"], both["caveat_tuned"], strict=True))),
            "apart": both["apart_linear"] | both["apart_tuned"],
            "worse": both["worse_linear"] | both["worse_tuned"],
        }
    )
