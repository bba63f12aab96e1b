"""What trials cost by the node that they ran on, by their devices, and beside what was planned; computed by hand."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports import sections
from reports.export import as_csv
from reports.prices import Money, Prices, hourly, money, resources_used
from reports.records import Record, Resources
from reports.results import Results, StudyInfo
from reports.storage import Storage
from reports.stored import read_record, write_record
from reports.tables import trials
from synthetic import plain

OWN = {"date": "2026-01", "source": "own"}
PRICES = Prices.model_validate(
    {
        "currency": "EUR",
        "cpu": {"per_core_hour": 0.05, **OWN},
        "devices": [{"pattern": "*L4", "per_device_hour": 0.9, **OWN}],
        "nodes": [
            {"type": "one", "devices": 1, "device": "*L4", "per_hour": 1.0, **OWN},
            {"type": "one-spot", "devices": 1, "device": "*L4", "per_hour": 0.3, **OWN},
            {"type": "eight", "devices": 8, "device": "*A100*", "per_hour": 16.0, **OWN},
            {"type": "cores", "devices": 4, "device": "cpu", "per_hour": 0.1, **OWN},
        ],
    }
)
L4, A100 = "NVIDIA L4", "NVIDIA A100-SXM4-40GB"


@pytest.mark.parametrize(
    ("device", "per_worker", "node_type", "price"),
    [
        (L4, {"GPU": 1.0}, "one-spot", 0.3),
        (L4, {"GPU": 1.0}, "one", 1.0),
        (L4, {"GPU": 1.0}, None, 0.9),
        (L4, {"GPU": 2.0, "CPU": 8.0}, None, 1.8),
        (L4, {"GPU": 0.5}, "one-spot", 0.15),
        (L4, {"GPU": 1.0}, "unheard-of", 0.9),
        (L4, {"GPU": 1.0}, "eight", 0.9),  # its devices are others: the label is wrong
        (A100, {"GPU": 1.0, "CPU": 12.0}, "eight", 2.0),
        (A100, {"GPU": 2.0}, "eight", 4.0),
        (A100, {"GPU": 1.0}, None, math.nan),
        ("cpu", {"CPU": 2.0}, "cores", 0.05),
        ("cpu", {"CPU": 2.0}, "one", 0.1),  # a worker without a GPU beside others with one
        ("cpu", {"trainer": 1.0}, None, math.nan),
    ],
)
def test_worker_pays_its_share_of_the_node_else_its_devices(
    device: str, per_worker: dict[str, float], node_type: str | None, price: float
) -> None:
    used = Resources(workers=1, per_worker=per_worker, device=device, node_type=node_type)
    assert hourly(used, PRICES) == pytest.approx(price, nan_ok=True)


def test_hour_of_a_trial_that_went_on_elsewhere_costs_the_mean_over_its_time() -> None:
    spot_first = {"one-spot": 300.0, "one": 100.0}
    used = Resources(workers=1, per_worker={"GPU": 2.0}, device=L4, node_type="one", seconds_on=spot_first)
    assert hourly(used, PRICES) == pytest.approx(2 * (3 * 0.3 + 1 * 1.0) / 4)
    unnamed = used.model_copy(update={"seconds_on": {"one": 100.0, "": 300.0}})
    assert hourly(unnamed, PRICES) == pytest.approx(2 * (1 * 1.0 + 3 * 0.9) / 4), (
        "the device's price where no type is noted"
    )


def ran(trial_id: str, node_type: str | None, planned: float | None, **used: Any) -> Record:
    """A trial of half an hour of device time."""
    content = plain(trial_id, "supervised", "r18", label_fraction=0.1)
    content["cost"] |= {"device_seconds": 1800.0, "planned_device_seconds": planned}
    content["resources"] |= {"device": L4, "per_worker": {"GPU": 1}, "node_type": node_type, **used}
    return Record.model_validate(content)


SPOT = ran("spot", "one-spot", 3600.0)
RECORDS = [SPOT, ran("two", None, 900.0, per_worker={"GPU": 2})]
UNPRICED = ran("abacus", "rack", 1800.0, device="Abacus 9")


def spent(records: list[Record]) -> Money:
    return money(trials(records), PRICES, resources_used(records))


def rows(html: str) -> list[list[str]]:
    """Texts of the cells of all rows."""
    cells = [row.split("</td>")[:-1] for row in html.split("<tr>")]
    return [[cell.rpartition(">")[2] for cell in row] for row in cells]


def test_planned_and_actual_money_are_at_the_price_of_what_ran() -> None:
    found = spent(RECORDS)
    assert found.trials["money"].tolist() == pytest.approx([0.5 * 0.3, 0.5 * 2 * 0.9])
    assert found.trials["planned_money"].tolist() == pytest.approx([1 * 0.3, 0.25 * 2 * 0.9])
    html = sections.planned(trials(RECORDS), found)
    assert "planned (EUR)" in html and "actual (EUR)" in html
    assert ["supervised from scratch", "r18", "2", "4,500", "3,600", "0.80", "0.75", "1.05"] in rows(html)
    assert ["spot", "3,600", "1,800", "0.50", "0.30", "0.15"] in rows(html)


def test_part_of_a_sum_is_never_shown_as_the_sum() -> None:
    records = [SPOT, UNPRICED]
    html = sections.planned(trials(records), spent(records))
    assert ["all", "", "2", "5,400", "3,600", "0.67", "unknown", "unknown"] in rows(html)
    assert ["spot", "3,600", "1,800", "0.50", "0.30", "0.15"] in rows(html)
    assert "EUR" not in sections.planned(trials([UNPRICED]), spent([UNPRICED]))


def test_report_names_what_has_no_price_and_the_prices_of_the_nodes() -> None:
    records = [*RECORDS, UNPRICED, ran("other", "unheard-of", None)]
    found = spent(records)
    assert found.unpriced == ("Abacus 9",) and found.unpriced_nodes == ("rack", "unheard-of")
    html = sections.money(found, PRICES)
    assert "1.50 EUR for 3 of 4 trials; no price is known of Abacus 9; nodes of type rack" in html
    assert "rack, unheard-of have no price for such devices, so that their trials are priced by device" in html
    assert ["one-spot", "0.3", "2026-01", "own"] in rows(html) and "eight" not in html


def test_table_of_trials_has_the_money_of_each() -> None:
    results = Results(StudyInfo("study", ""), RECORDS, prices=PRICES)
    table = pd.read_csv(io.BytesIO(as_csv(results.table))).set_index("id")
    assert table["money"].to_dict() == pytest.approx({"spot": 0.15, "two": 0.9})
    assert table["currency"].tolist() == ["EUR", "EUR"]
    columns = [column["name"] for column in sections.trial_rows(results.table)["columns"]]
    assert "money (EUR)" in columns


def test_records_without_a_node_type_are_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_record(storage, SPOT)
    path = tmp_path / "records" / "spot.json"
    content = json.loads(path.read_text())
    assert content["resources"].pop("node_type") == "one-spot"
    path.write_text(json.dumps(content))
    resources = read_record(storage, "spot").resources
    assert resources is not None and resources.node_type is None
