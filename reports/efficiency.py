"""Label efficiency: with how many labels another model, or another method, reaches what this one reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from reports.comparable import joined
from reports.intervals import NORMAL, TAIL, Array, resampled_means, seed_freedom, student, values_of
from reports.scaling import labels_needed, size_points

SAVINGS_COLUMNS = (
    *("architecture", "label_fraction", "labels", "mean", "reference", "reference_stage"),
    *("factor", "bound", "low", "low_bound", "high", "high_bound", "rises", "basis", "sentence", "ids"),
    *("caveat", "apart"),
)


UNKNOWN = (math.nan, "unknown", math.nan, "unknown")  # the ends of an interval and their bounds


def label_efficiency(trials: pd.DataFrame) -> pd.DataFrame:
    """Every fine-tuned model and label fraction against the smallest fine-tuned model, and against the same model
    supervised.

    Columns: architecture, label_fraction, labels, mean (fine-tuned top-1), reference (architecture),
    reference_stage ("finetune" or "supervised"); factor: how many times as many labels the reference needs; bound:
    "about" where that is interpolated (piecewise linear in log labels), "more than" or "at most" where it is censored
    by the most or fewest labels that the reference was trained with; low and high with bounds of their own: the 95 %
    interval over seeds (NaN and "unknown" where no result behind it has two seeds); rises (false: the reference's
    accuracy falls somewhere with more labels, and its first crossing counts); basis, sentence, ids;
    caveat and apart (`comparable.with_caveats`: models at different settings have no interval).
    """
    points, supervised = size_points(trials), size_points(trials, "supervised")
    if points.empty:
        return pd.DataFrame(columns=list(SAVINGS_COLUMNS))
    smallest = points.sort_values(["parameters", "architecture"], kind="stable").iloc[0]["architecture"]
    rows = []
    for _, target in points.sort_values(["parameters", "architecture", "label_fraction"], kind="stable").iterrows():
        if target["architecture"] != smallest:
            rows.append(_row(trials, target, points[points["architecture"] == smallest], "finetune"))
        if len(baseline := supervised[supervised["architecture"] == target["architecture"]]):
            rows.append(_row(trials, target, baseline, "supervised"))
    return pd.DataFrame(rows, columns=list(SAVINGS_COLUMNS))


def log_labels_needed(labels: Array, curves: Array, targets: Array) -> Array:
    """Log of the labels at which curves (m, k) first reach targets (m,), as `scaling.labels_needed` finds them.

    `labels` (k,) ascend. Censored below: -inf; above: inf.
    """
    logs = np.log(labels)
    needed = np.full(len(targets), np.inf)
    for j in reversed(range(len(labels) - 1)):
        low, high = curves[:, j], curves[:, j + 1]
        crosses = (low < targets) & (targets <= high)
        share = (targets - low)[crosses] / (high - low)[crosses]
        needed[crosses] = logs[j] + share * (logs[j + 1] - logs[j])
    needed[targets == curves[:, 0]] = logs[0]
    needed[targets < curves[:, 0]] = -np.inf
    return needed


def _row(trials: pd.DataFrame, target: pd.Series, curve: pd.DataFrame, stage: str) -> dict[str, object]:
    curve = curve.sort_values("labels")
    labels = curve["labels"].to_numpy(np.float64)
    needed = labels_needed(labels.tolist(), curve["mean"].tolist(), target["mean"])
    cells = values_of(trials, [target["ids"], *curve["ids"]])
    unfair = bool(target["apart"] or curve["apart"].any())
    ends = UNKNOWN if unfair else _interval(labels, cells, float(target["labels"]))
    row: dict[str, object] = {
        **{name: target[name] for name in ("architecture", "label_fraction", "labels", "mean")},
        "reference": curve.iloc[0]["architecture"],
        "reference_stage": stage,
        "factor": needed.labels / float(target["labels"]),
        "bound": needed.bound,
        **dict(zip(("low", "low_bound", "high", "high_bound"), ends, strict=True)),
        "rises": needed.rises,
        "basis": _basis(cells),
        "ids": [*target["ids"], *(id for ids in curve["ids"] for id in ids)],
        "caveat": joined([target["caveat"], *curve["caveat"]]),
        "apart": unfair,
    }
    return {**row, "sentence": _sentence(row)}


def _interval(labels: Array, cells: list[Array], own: float) -> tuple[float, str, float, str]:
    """Percentiles over resampled seeds of all results that enter, the deviations stretched by Student's t over the
    normal quantile as in `intervals.expanded_interval`: before the labels are read off, since these can be censored.
    Unknown where any result has a single seed, whose spread would count as none."""
    freedom = seed_freedom(cells)
    if min(map(len, cells)) < 2:
        return UNKNOWN
    means = np.array([values.mean() for values in cells])
    drawn = means + student(freedom) / NORMAL * (resampled_means(cells, np.random.default_rng(0)) - means)
    needed = log_labels_needed(labels, drawn[:, 1:], drawn[:, 0])
    low, high = np.quantile(needed, [TAIL, 1 - TAIL], method="inverted_cdf")
    return *_end(low, labels, own), *_end(high, labels, own)


def _end(log_needed: float, labels: Array, own: float) -> tuple[float, str]:
    if math.isinf(log_needed):
        return (labels[-1] / own, "more than") if log_needed > 0 else (labels[0] / own, "at most")
    return math.exp(log_needed) / own, "about"


def _basis(cells: list[Array]) -> str:
    fewest, most = min(map(len, cells)), max(map(len, cells))
    if most == 1:
        return "single runs: no spread is known"
    return f"{fewest if fewest == most else f'{fewest} to {most}'} seeds of each result"


def _sentence(row: Mapping[str, object]) -> str:
    reference = f"{row['reference']} supervised" if row["reference_stage"] == "supervised" else str(row["reference"])
    interval = ""
    if row["low_bound"] != "unknown":
        ends = dict.fromkeys([_times(row["low"], row["low_bound"]), _times(row["high"], row["high_bound"])])
        interval = f" (95 % interval {' to '.join(ends)})"
    note = f"; {row['caveat']}" if row["apart"] else ""
    return (
        f"{row['architecture']} fine-tuned with {100 * float(str(row['label_fraction'])):g} % of the labels equals "
        f"{reference} with {_times(row['factor'], row['bound'])} times as many{interval}"
        f"{note}"
    )


def _times(factor: object, bound: object) -> str:
    return f"{'' if bound == 'about' else f'{bound} '}{float(str(factor)):.3g}"
