"""Models that are worse than a smaller one of their family: flagged, and where that is clear left out of fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from reports.intervals import student
from reports.scaling import standard_error


@dataclass(frozen=True)
class Flag:
    """A model that is worse than a smaller one of its family by `by` (top-1 in [0, 1]).

    `left_out` of the fits where the reversal is clear: significant at 5 % over seeds (Welch's t-test, for as many tests
    as there are smaller models). Any other may be noise, which a fit is to average over: to leave out the models that
    fell short by luck, and keep those that excel by luck, would bend it.
    """

    architecture: str
    better: str
    by: float
    left_out: bool
    ids: tuple[str, ...]


def reversals(points: pd.DataFrame) -> list[Flag]:
    """Models that are worse than a smaller one of the same family, in the order of their sizes.

    `points` as of `scaling.size_points`, of one stage and label fraction, with the boolean column `selective_kernels`.
    """
    flags = []
    for _, family in points.groupby("selective_kernels"):
        for _, row in family.sort_values("parameters").iterrows():
            smaller = family[family["parameters"] < row["parameters"]]
            if len(smaller) and smaller["mean"].max() > row["mean"]:
                flags.append(_flag(row, smaller.loc[smaller["mean"].idxmax()], len(smaller)))
    return flags


def _flag(row: pd.Series, best: pd.Series, tests: int) -> Flag:
    by = float(best["mean"] - row["mean"])
    error, freedom = standard_error([row["std"], best["std"]], [row["n"], best["n"]])
    clear = not math.isnan(error) and by > student(freedom, tests) * error
    return Flag(str(row["architecture"]), str(best["architecture"]), by, bool(clear), tuple(row["ids"]))
