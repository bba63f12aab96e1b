"""What trials took beside what their launches had estimated."""

from __future__ import annotations

import math

import pandas as pd

COLUMNS = ("stage", "architecture", "trials", "planned", "actual", "ratio")


def estimated(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of `tables.trials` that state both times, with `ratio`, actual over planned device-seconds; those that
    are off by the largest factor first, whichever way."""
    known = trials[(trials["planned_device_seconds"] > 0) & (trials["device_seconds"] > 0)]
    known = known.assign(ratio=known["device_seconds"] / known["planned_device_seconds"])
    off = known["ratio"].map(lambda ratio: abs(math.log(ratio)))
    return known.loc[off.sort_values(ascending=False, kind="stable").index]


def planned_and_actual(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each stage and architecture that has estimated trials, in the order of `COLUMNS`: their number, their
    planned and actual device-seconds together, and the ratio of the two."""
    grouped = estimated(trials).groupby(["stage", "architecture"], sort=False)
    table = grouped.agg(
        trials=("id", "count"), planned=("planned_device_seconds", "sum"), actual=("device_seconds", "sum")
    ).reset_index()
    return table.assign(ratio=table["actual"] / table["planned"])[list(COLUMNS)]
