"""The next experiment: which unfinished trial narrows an interval most for each device-hour that it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from reports.comparable import keys_of
from reports.intervals import NORMAL
from reports.tables import summary

CELL = ("stage", "variant")
IGNORANCE = 1 / math.sqrt(12)  # standard deviation of a top-1 that may be anything in [0, 1]


@dataclass(frozen=True)
class ReportedTrial:
    """A trial of the plan, finished or not, as a report knows it; its fields are as the columns of `tables.trials`.

    Trials of one `variant` (`settings.variant_of`) are seeds of one cell of the grid. `dev`: it is to measure
    candidates on held-out images, and is no result by itself.
    """

    id: str
    stage: str
    architecture: str
    label_fraction: float | None
    head_layer: int | None
    temperature: float | None
    seed: int
    parent: str | None
    train_flops: float
    variant: str
    dev: bool = False


@dataclass(frozen=True)
class Suggestion:
    """One unfinished trial: `half_width` of its cell's 95 % interval now and `after` it, in points of top-1.

    `device_hours` are those of the trial and of its unfinished parents, NaN where no finished trial tells the speed;
    `reason` says all of it in words.
    """

    id: str
    half_width: float
    after: float
    device_hours: float
    reason: str


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a stage: over seeds, pooled over its cells (or over all; NaN where none has two seeds),
    and between its cells, which is what is known of one without any result."""

    seeds: float
    cells: float


def next_experiments(trials: pd.DataFrame, planned: Iterable[ReportedTrial]) -> list[Suggestion]:
    """Suggestions, the best first, one for each cell of the grid (whose trials differ in seeds alone) that has an
    unfinished trial; pretrainings only count as what others need.

    A cell of n seeds is known to 1.96 s / sqrt(n), s being its own standard deviation, or for fewer than two seeds
    that of its stage, pooled over cells; an empty cell to the standard deviation between the cells of its stage. The
    cost is predicted from the device-seconds per operation of the finished trials of an architecture, or of all.
    Without any finished trial the order is by operations, and hours are NaN.
    """
    finished = set(trials["id"])
    missing = {trial.id: trial for trial in planned if trial.id not in finished}
    cells = summary(trials[trials["stage"] != "pretrain"], CELL)
    known = dict(zip(keys_of(cells, CELL), zip(cells["n"].tolist(), cells["std"].tolist(), strict=True), strict=True))
    spreads = {stage: _spread(stage, cells) for stage in {trial.stage for trial in missing.values()}}
    speeds = _seconds_per_flop(trials)
    best: dict[tuple[str, str], tuple[float, Suggestion]] = {}
    for trial in missing.values():
        if trial.stage == "pretrain":
            continue
        key = (trial.stage, trial.variant)
        n, std = known.get(key, (0, math.nan))
        rank, suggestion = _suggestion(trial, missing, n, std, spreads[trial.stage], speeds)
        if key not in best or rank > best[key][0]:
            best[key] = rank, suggestion
    return [suggestion for _, suggestion in sorted(best.values(), key=lambda found: (-found[0], found[1].id))]


def _suggestion(
    trial: ReportedTrial,
    missing: Mapping[str, ReportedTrial],
    n: int,
    std: float,
    spread: Spread,
    speeds: Mapping[str | None, float],
) -> tuple[float, Suggestion]:
    """The suggestion and its rank: what it narrows per device-hour or, where no speed is known, per operation."""
    known = n > 1 or not math.isnan(spread.seeds)
    one_seed = std if n > 1 else spread.seeds if known else spread.cells
    now = one_seed / math.sqrt(n) if n else spread.cells
    after = one_seed / math.sqrt(n + 1) if n else _both(now, one_seed)
    needed = _unfinished_parents(trial, missing)
    flops = sum(one.train_flops for one in (trial, *needed))
    hours = sum(_speed(one, speeds) * one.train_flops for one in (trial, *needed)) / 3600
    half, narrower = (100 * NORMAL * value for value in (now, after))
    rank = (half - narrower) / (hours if hours > 0 else max(flops, 1.0))
    reason = _reason(n, half, narrower, hours, len(needed), known)
    return rank, Suggestion(trial.id, half, narrower, hours, reason)


def _both(prior: float, seed: float) -> float:
    """Standard deviation of what a first seed and what was known before say together."""
    return prior * seed / math.hypot(prior, seed) if prior or seed else 0.0


def _spread(stage: str, cells: pd.DataFrame) -> Spread:
    of_stage = cells[cells["stage"] == stage]
    between = float(of_stage["mean"].std()) if len(of_stage) > 1 else IGNORANCE
    for table in (of_stage, cells):
        several = table[table["n"] > 1]
        if len(several):
            freedom = several["n"] - 1
            return Spread(math.sqrt(float((freedom * several["std"] ** 2).sum() / freedom.sum())), between)
    return Spread(math.nan, between)


def _unfinished_parents(trial: ReportedTrial, missing: Mapping[str, ReportedTrial]) -> list[ReportedTrial]:
    found: list[ReportedTrial] = []
    while (parent := missing.get(trial.parent or "")) is not None and parent not in found:
        found.append(parent)
        trial = parent
    return found


def _seconds_per_flop(trials: pd.DataFrame) -> dict[str | None, float]:
    """Device-seconds per operation of finished trials, by architecture, and of all of them under None."""
    timed = trials[trials["device_seconds"].notna() & (trials["train_flops"] > 0)]
    sums = timed.groupby("architecture")[["device_seconds", "train_flops"]].sum()
    speeds: dict[str | None, float] = {
        str(name): float(speed) for name, speed in (sums["device_seconds"] / sums["train_flops"]).items()
    }
    if len(timed):
        speeds[None] = float(timed["device_seconds"].sum() / timed["train_flops"].sum())
    return speeds


def _speed(trial: ReportedTrial, speeds: Mapping[str | None, float]) -> float:
    return speeds.get(trial.architecture, speeds.get(None, math.nan))


def _reason(n: int, half: float, after: float, hours: float, parents: int, spread_known: bool) -> str:
    if n == 0:
        start = f"nothing is known of this cell: {half:.1f} points either way, {after:.1f} with a first seed"
    else:
        start = f"{n} seed{'s' if n > 1 else ''}: the interval is ± {half:.1f} points, ± {after:.1f} with one more"
    guess = "" if spread_known else " (guessed: no result has two seeds yet)"
    also = f", {parents} unfinished parent{'s' if parents > 1 else ''} included" if parents else ""
    cost = "at a cost that no finished trial tells yet" if math.isnan(hours) else f"for {hours:.2g} device-hours"
    return f"{start}{guess}, {cost}{also}"
