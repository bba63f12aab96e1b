"""Pareto fronts against brute force, and what trials cost by a price table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from reports.pareto import candidates, front, fronts
from reports.prices import Prices, money, read_prices, resources_used
from reports.records import Record
from reports.tables import trials
from synthetic import plain, record, study


def on(device: str, trial_id: str, seconds: float, parent: str | None = None) -> Record:
    content = plain(trial_id, "finetune" if parent else "pretrain", "r18", 0, parent, label_fraction=0.1)
    content["resources"] |= {"device": device, "per_worker": {"CPU": 4}}
    content["cost"] |= {"device_seconds": seconds}
    return Record.model_validate(content)


def prices() -> Prices:
    return Prices.model_validate(
        {
            "currency": "EUR",
            "cpu": {"per_core_hour": 0.05, "date": "2026-01", "source": "own"},
            "devices": [
                {"pattern": "*H200*", "per_device_hour": 4.0, "date": "2026-01", "source": "own"},
                {"pattern": "*H*", "per_device_hour": 1.0, "date": "2026-01", "source": "own"},
            ],
        }
    )


def test_front_is_the_set_that_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        costs, values = rng.integers(0, 6, 12).astype(float), rng.integers(0, 6, 12).astype(float)
        values[rng.integers(12)] = math.nan
        beaten = [
            any(c <= cost and v >= value and (c < cost or v > value) for c, v in zip(costs, values, strict=True))
            for cost, value in zip(costs, values, strict=True)
        ]
        assert front(costs, values).tolist() == (~np.array(beaten) & ~np.isnan(values)).tolist()
    assert front([], []).tolist() == [] and front([math.nan], [1.0]).tolist() == [False]


def test_equal_points_are_on_the_front_together() -> None:
    assert front([1, 1, 2, 2], [3, 3, 4, 3]).tolist() == [True, True, True, False]


def test_fronts_are_per_label_fraction_and_count_ancestors() -> None:
    records = study(2)
    table = fronts(candidates(trials(records), money(trials(records), prices(), resources_used(records))))
    assert set(table["cost"]) == {"parameters", "total_flops", "device_hours", "money"}
    flops = table[(table["cost"] == "total_flops") & (table["label_fraction"] == 0.1)]
    size = {row.architecture: row.parameters for row in flops.itertuples()}
    for row in flops.itertuples():
        links = {"supervised": 1, "linear": 2, "finetune": 2, "distill": 3}[row.stage]
        assert row.amount == pytest.approx(links * 6e4 * size[row.architecture])
    chosen = flops[flops["on_front"]]
    assert 0 < len(chosen) < len(flops)
    ordered = chosen.sort_values("amount")
    assert ordered["mean"].is_monotonic_increasing and ordered["ids"].map(len).eq(2).all()


def test_unknown_costs_are_on_no_front_and_nothing_has_none() -> None:
    table = trials([record("lonely", "finetune", "r18", 0, "gone", 0.9, label_fraction=0.1)])
    assert set(fronts(candidates(table))["cost"]) == {"parameters"}
    assert fronts(candidates(trials([]))).empty


def test_money_is_hours_times_price_with_all_ancestors() -> None:
    records = [on("NVIDIA H200", "a", 7200), on("cpu", "b", 3600, "a"), on("NVIDIA H100", "c", 3600, "b")]
    found = money(trials(records), prices(), resources_used(records))
    assert found.currency == "EUR" and found.unpriced == ()
    assert found.trials["money"].tolist() == pytest.approx([8.0, 4 * 0.05, 1.0])
    assert found.trials["total_money"].tolist() == pytest.approx([8.0, 8.2, 9.2])


def test_device_without_price_is_named_and_never_free() -> None:
    records = [on("Abacus 9", "a", 3600), on("cpu", "b", 3600, "a")]
    found = money(trials(records), prices(), resources_used(records))
    assert found.unpriced == ("Abacus 9",)
    assert math.isnan(found.trials["money"][0]) and math.isnan(found.trials["total_money"][1])
    without_resources = money(trials([on("cpu", "b", 3600)]), prices(), {})
    assert math.isnan(without_resources.trials["money"][0])


def test_own_price_table_states_dates_and_sources() -> None:
    table = read_prices()
    assert table.currency == "USD" and table.cpu is not None
    assert all(price.date and price.source for price in (*table.devices, table.cpu))
    for name in (
        "NVIDIA H200",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA A100-SXM4-40GB",
        "Tesla T4",
        "NVIDIA A10G",
        "NVIDIA L4",
    ):
        assert table.of(name) is not None
    assert table.of("NVIDIA A100-SXM4-80GB") is None and table.of("NVIDIA L40S") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("currency: EUR\ndevices: [{pattern: x}]", "devices.0.per_device_hour"),
        ("currency: EUR\nprice: 1", "price"),
        ("[", "this is not YAML"),
        ("currency: EUR\ncpu: {per_core_hour: -1, date: 2026-01, source: own}", "cpu.per_core_hour"),
        ("currency: EUR\ncpu: {per_core_hour: 1, date: soon, source: own}", "cpu.date"),
    ],
)
def test_wrong_price_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prices(path)
    with pytest.raises(ValueError, match="no price table"):
        read_prices(tmp_path / "missing.yaml")


def test_own_table_of_a_user_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("currency: EUR\ndevices: [{pattern: '*', per_device_hour: 0.5, date: 2026-01-31, source: lab}]\n")
    found = read_prices(path).of("anything")
    assert found is not None and (found.per_device_hour, found.date) == (0.5, "2026-01-31")
