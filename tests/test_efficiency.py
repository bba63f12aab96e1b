"""Label efficiency: the paper's values, censoring said, and intervals over seeds against brute force."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from reports.efficiency import label_efficiency, log_labels_needed
from reports.paper import table_1
from reports.scaling import labels_needed
from reports.tables import trials
from synthetic import record


def row_of(table: pd.DataFrame, architecture: str, fraction: float, stage: str = "finetune") -> pd.Series:
    found = label_efficiency(table)
    chosen = found[
        (found["architecture"] == architecture)
        & (found["label_fraction"] == fraction)
        & (found["reference_stage"] == stage)
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


def runs(results: Mapping[tuple[str, str, float], Sequence[float]]) -> pd.DataFrame:
    """(stage, architecture, label fraction) -> top-1 of each seed; 10,000 images."""
    return trials(
        [
            record(f"{stage}-{name}-{fraction:g}-s{seed}", stage, name, seed, None, top1, label_fraction=fraction)
            for (stage, name, fraction), values in results.items()
            for seed, top1 in enumerate(values)
        ]
    )


SMALL = {
    ("finetune", "r10w0.25", 0.01): [0.50, 0.52, 0.48],
    ("finetune", "r10w0.25", 0.1): [0.70, 0.71, 0.69],
    ("finetune", "r10w0.25", 1.0): [0.90, 0.91, 0.89],
}


def test_values_of_table_1() -> None:
    few = row_of(table_1(), "r152w2", 0.01)
    assert few["reference"] == "r50"
    assert (few["factor"], few["bound"]) == (pytest.approx(16.9, abs=0.05), "about")
    assert few["low_bound"] == "unknown" and math.isnan(few["low"]) and "single runs" in few["basis"]
    more = row_of(table_1(), "r152w2", 0.1)
    assert (more["factor"], more["bound"]) == (pytest.approx(10, abs=0.01), "more than")
    assert more["sentence"].endswith("equals r50 with more than 10 times as many")


def test_supervised_reference_is_the_same_model_and_censored_below() -> None:
    row = row_of(table_1(), "r50", 0.01, "supervised")
    assert (row["reference"], row["bound"]) == ("r50", "at most")
    assert row["factor"] == pytest.approx(1281167 / 12811)


def test_interval_is_that_of_all_resamples() -> None:
    """With few seeds the bootstrap can be enumerated: 27 x 27 x 27 x 27 resamples, each deviation stretched."""
    table = runs({**SMALL, ("finetune", "r18", 0.01): [0.80, 0.81, 0.79]})
    row = row_of(table, "r18", 0.01)
    from scipy import stats

    index = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    stretch = math.sqrt(3 / 2) * stats.t.ppf(0.975, 8) / stats.norm.ppf(0.975)

    def means(values: Sequence[float]) -> np.ndarray:
        return np.mean(values) + stretch * (np.array(values)[index].mean(1) - np.mean(values))

    middle, top, target = (means(v) for v in ([0.70, 0.71, 0.69], [0.90, 0.91, 0.89], [0.80, 0.81, 0.79]))
    m, t, x = np.meshgrid(middle, top, target, indexing="ij")
    factors = 10 ** (1 + (x - m) / (t - m))
    assert row["factor"] == pytest.approx(10**1.5)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(factors, [0.025, 0.975])), rel=0.04)
    assert row["basis"] == "3 seeds of each result"


def test_interval_says_where_it_is_censored() -> None:
    table = runs({**SMALL, ("finetune", "r18", 0.01): [0.89, 0.90, 0.91]})
    row = row_of(table, "r18", 0.01)
    assert (row["low_bound"], row["high_bound"], row["high"]) == ("about", "more than", pytest.approx(100))
    assert row["low"] < 100 and "to more than 100)" in row["sentence"]
    worse = row_of(runs({**SMALL, ("finetune", "r18", 0.1): [0.40, 0.41, 0.39]}), "r18", 0.1)
    assert (worse["bound"], worse["low_bound"], worse["high_bound"]) == ("at most",) * 3
    assert worse["factor"] == pytest.approx(0.1)


def test_batched_reading_agrees_with_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([10.0, 100.0, 1000.0, 5000.0])
    curves, targets = rng.uniform(size=(300, 4)).round(1), rng.uniform(size=300).round(1)  # rounded: ties occur
    for needed, curve, target in zip(log_labels_needed(labels, curves, targets), curves, targets, strict=True):
        one = labels_needed(labels.tolist(), curve.tolist(), target)
        expected = {"about": math.log(one.labels), "more than": math.inf, "at most": -math.inf}[one.bound]
        assert needed == pytest.approx(expected)


def test_every_model_and_fraction_has_a_row_and_no_trials_none() -> None:
    table = runs({**SMALL, ("finetune", "r18", 0.01): [0.8], ("supervised", "r10w0.25", 1.0): [0.7, 0.8]})
    found = label_efficiency(table)
    assert len(found) == 1 + 3  # r18 against the smallest; the smallest, three times, against itself supervised
    assert set(found["ids"].iloc[0]) <= set(table["id"])
    assert label_efficiency(trials([])).empty


def test_falling_accuracy_with_more_labels_is_said() -> None:
    results = {**SMALL, ("finetune", "r10w0.25", 1.0): [0.65], ("finetune", "r18", 0.01): [0.6]}
    assert not row_of(runs(results), "r18", 0.01)["rises"]
