"""Pareto fronts of accuracy against what it costs: parameters, operations, device-hours, money."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from reports.prices import Money
from reports.tables import summary

COSTS = ("parameters", "total_flops", "device_hours", "money")
CELL = ("label_fraction", "labels", "stage", "architecture", "parameters")


def front(costs: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one beats: (n,). Lower costs and higher values are better.

    One point beats another that is no better in either and worse in one; equal points stand or fall together. A point
    with a NaN is on no front.
    """
    costs, values = np.asarray(costs, np.float64), np.asarray(values, np.float64)
    known = np.flatnonzero(~np.isnan(costs) & ~np.isnan(values))
    order = known[np.lexsort((-values[known], costs[known]))]
    best_below = np.maximum.accumulate(np.concatenate([[-np.inf], values[order]]))[:-1]  # of all that come before
    same = np.concatenate([[False], (np.diff(costs[order]) == 0) & (np.diff(values[order]) == 0)])
    better = values[order] > best_below
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))  # of equal points, which are neighbors
    on_front = np.zeros(len(costs), bool)
    on_front[order] = better[first]
    return on_front


def candidates(trials: pd.DataFrame, money: Money | None = None) -> pd.DataFrame:
    """What could be trained: one row a stage, architecture, label fraction and variant that has a top-1.

    Columns: label_fraction, labels, stage, architecture, parameters, variant, mean, std, n, single_seed, seeds, ids
    (as of `tables.summary`), total_flops, device_hours, money: means over seeds of a trial with all of its ancestors,
    NaN where one is unknown. A pretraining counts in full for each of its children: that is what this model alone
    takes.
    """
    tested = trials[trials["stage"] != "pretrain"]
    table = summary(tested, CELL)
    costs = trials.set_index("id")[["total_flops"]].assign(
        device_hours=trials.set_index("id")["total_device_seconds"] / 3600,
        money=np.nan if money is None else money.trials.set_index("id")["total_money"],
    )
    members = table["ids"].explode()
    each = costs.loc[members].groupby(members.index)
    means = each.mean().where(each.count().eq(each.size(), axis=0))  # unknown where one seed's is
    return pd.concat([table, means.reset_index(drop=True)], axis=1)


def fronts(table: pd.DataFrame) -> pd.DataFrame:
    """Of `candidates`, one row for each of `COSTS` that is known: its columns and cost (which), amount, on_front.

    Every label fraction has its own front, as labels are a price of their own; candidates without a label fraction
    belong to none.
    """
    rows = []
    for _, group in table.groupby("label_fraction", sort=True):
        for cost in COSTS:
            known = group[group[cost].notna()]
            amounts = known[cost].astype("float64")
            on_front = front(amounts, known["mean"])
            rows.append(known.assign(cost=cost, amount=amounts, on_front=on_front).drop(columns=list(COSTS[1:])))
    if not rows:
        return table.drop(columns=list(COSTS[1:])).assign(cost="", amount=0.0, on_front=False).iloc[:0]
    return pd.concat(rows, ignore_index=True)
