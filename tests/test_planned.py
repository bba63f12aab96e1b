"""What the report says of estimates: planned beside actual, from records that state them and from older ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import sections
from reports.planned import estimated, planned_and_actual
from reports.prices import Prices, money
from reports.records import Record
from reports.storage import Storage
from reports.stored import read_record, write_record
from reports.tables import trials
from synthetic import plain


def timed(trial_id: str, stage: str, architecture: str, planned: float | None, actual: float) -> Record:
    content = plain(trial_id, stage, architecture, label_fraction=0.1)
    content["cost"] |= {"device_seconds": actual, "planned_device_seconds": planned}
    return Record.model_validate(content)


RECORDS = [
    timed("a", "finetune", "r18", 10.0, 20.0),
    timed("b", "finetune", "r18", 10.0, 2.0),
    timed("c", "finetune", "r34", 5.0, 5.0),
    timed("d", "pretrain", "r18", 100.0, 150.0),
    timed("e", "linear", "r18", None, 1.0),
]
TRIALS = trials(RECORDS)
NO_PRICES = money(TRIALS, Prices(currency="EUR"), {})


def test_times_are_summed_by_stage_and_architecture() -> None:
    table = planned_and_actual(estimated(TRIALS, NO_PRICES.trials))
    rows = {
        (row.stage, row.architecture): (row.trials, row.planned, row.actual, row.ratio) for row in table.itertuples()
    }
    assert rows == {
        ("finetune", "r18"): (2, 20, 22, pytest.approx(1.1)),
        ("finetune", "r34"): (1, 5, 5, 1),
        ("pretrain", "r18"): (1, 100, 150, 1.5),
    }


def test_trials_off_by_the_largest_factor_come_first_whichever_way() -> None:
    assert estimated(TRIALS, NO_PRICES.trials)["id"].tolist() == ["b", "a", "d", "c"]


def test_report_shows_planned_beside_actual_and_how_many_had_no_estimate() -> None:
    html = sections.planned(TRIALS, NO_PRICES)
    assert "Planned and actual device-seconds of 4 of 5 trials; the other 1 had no estimate" in html
    cells = [row.split("</td>")[:-1] for row in html.split("<tr>")]
    texts = [[cell.rpartition(">")[2] for cell in row] for row in cells]
    assert ["pretrained", "r18", "1", "100", "150", "1.50"] in texts
    assert ["all", "", "4", "125", "177", "1.42"] in texts
    assert ["b", "10", "2", "0.20"] in texts


def test_report_without_estimates_says_how_to_get_them() -> None:
    html = sections.planned(trials([RECORDS[-1]]), NO_PRICES)
    assert "no trial here has an estimate" in html and "plan --calibrate" in html and "<table" not in html


def test_records_without_an_estimate_are_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_record(storage, RECORDS[0])
    path = tmp_path / "records" / "a.json"
    content = json.loads(path.read_text())
    assert content["cost"].pop("planned_device_seconds") == 10
    path.write_text(json.dumps(content))
    assert read_record(storage, "a").cost.planned_device_seconds is None
