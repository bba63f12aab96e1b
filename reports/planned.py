"""What trials took and cost beside what their launches had estimated."""

from __future__ import annotations

import math

import pandas as pd

PLANNED_COLUMNS = ("stage", "architecture", "trials", "planned", "actual", "ratio", "planned_money", "money")


def estimated(trials: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """The trials of `tables.trials` that state both times, with `ratio`, actual over planned device-seconds; those that
    are off by the largest factor first, whichever way. `cost`, as of `prices.money`, gives what both come to,
    `planned_money` and `money`."""
    known = trials[(trials["planned_device_seconds"] > 0) & (trials["device_seconds"] > 0)]
    known = known.merge(cost[["id", "planned_money", "money"]], on="id", how="left")
    known = known.assign(ratio=known["device_seconds"] / known["planned_device_seconds"])
    off = known["ratio"].map(lambda ratio: abs(math.log(ratio)))
    return known.loc[off.sort_values(ascending=False, kind="stable").index]


def planned_and_actual(estimated: pd.DataFrame) -> pd.DataFrame:
    """One row for each stage and architecture that has estimated trials, in the order of `PLANNED_COLUMNS`.

    It has their number, their planned and actual device-seconds together, the ratio of the two, and both in money (NaN
    where a trial has no price)."""
    table = estimated.groupby(["stage", "architecture"], sort=False).agg(
        trials=("id", "count"),
        planned=("planned_device_seconds", "sum"),
        actual=("device_seconds", "sum"),
        planned_money=("planned_money", _sum_if_all_known),
        money=("money", _sum_if_all_known),
    )
    table = table.reset_index()
    return table.assign(ratio=table["actual"] / table["planned"])[list(PLANNED_COLUMNS)]


def _sum_if_all_known(amounts: pd.Series[float]) -> float:
    """NaN as soon as one is unknown: part of a sum would look like less money."""
    return float(amounts.sum(skipna=False))
