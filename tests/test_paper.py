"""The paper's numbers as records, held to the presets that repeat it; and its tables beside a study's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import planted
import synthetic
from reports import paper
from reports.layouts import NUMBERS, Layout, table_rows
from reports.records import Record
from reports.storage import Storage
from reports.stored import read_record, write_record
from reports.tables import group_by_data, trials
from study.load import load_study
from study.plan import ExpectedImages, PlannedTrial, make_plan

PRESETS = Path(__file__).parents[1] / "study" / "presets"
NONE = trials([])


@cache
def planned() -> dict[str, PlannedTrial]:
    """All trials of the presets that repeat the paper's tables, by id."""
    found: dict[str, PlannedTrial] = {}
    for name in ("table1", "table2", "table3", "figure-d1"):
        study = load_study(PRESETS / f"imagenet-{name}.yaml")
        found |= make_plan(study, ExpectedImages.of(study)).trials
    return found


def contains(whole: Any, part: Any) -> bool:
    """Whether a nested mapping has all that another one has."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    return bool(whole == part)


def repeats(trial_id: str, record: Record, by_id: dict[str, Record]) -> bool:
    """Whether a planned trial repeats a training of the paper, its ancestors included."""
    spec = planned()[trial_id].spec
    same = (spec.stage, spec.architecture) == (record.spec.stage, record.spec.architecture)
    if not same or not contains(spec.plain()["settings"], dict(record.spec.settings)):
        return False
    if record.spec.parent is None or spec.parent is None:
        return record.spec.parent is spec.parent
    return repeats(spec.parent, by_id[record.spec.parent], by_id)


def test_every_training_of_the_paper_is_one_of_the_presets() -> None:
    by_id = {record.id: record for record in paper.records()}
    assert len(by_id) == len(paper.records()) == 13 * 6 + 8 + 2 + 6 + 2
    for record in paper.records():
        (twin,) = {trial.id: trial for trial in planned().values() if repeats(trial.id, record, by_id)}.values() or [
            None
        ]
        assert twin is not None, record.id
        assert record.cost.train_flops == twin.train_flops, record.id
        assert record.cost.images == twin.steps * twin.spec.settings.optimization.global_batch_size, record.id
        assert record.model.encoder_parameters == round(twin.parameters / 1e6) * 10**6  # as Table 1 prints them
        fraction = record.spec.settings.get("label_fraction")
        if isinstance(fraction, float):
            images = ExpectedImages(1281167, 1000)
            assert record.data.labelled_images == images.labelled(fraction)


def test_papers_trials_are_comparable_and_come_after_their_parents() -> None:
    seen: set[str] = set()
    for record in paper.records():
        assert record.id.startswith("paper-") and record.source == "paper"
        assert record.spec.parent is None or record.spec.parent in seen
        seen.add(record.id)
    assert len(group_by_data(paper.records())) == 1
    assert len(group_by_data([*paper.records(), synthetic.record("a")])) == 2, "never in one table with a run"


def test_papers_table() -> None:
    rows = paper.table().set_index("id")
    assert (
        rows["seed"].isna().all() and rows["device_seconds"].isna().all() and rows["total_device_seconds"].isna().all()
    )
    pretrainings = rows[rows["stage"] == "pretrain"]
    assert pretrainings["top1"].isna().all() and pretrainings["memory"].tolist() == [True] * 13 + [False]
    assert set(rows.loc[rows["stage"] == "finetune", "head_depth"]) == {3}
    student = rows.loc["paper-distill-r50-1pct-by-r152w3sk"]
    assert (student["top1"], student["teacher_top1"], student["teacher_stage"]) == (0.739, 0.766, "distill")
    assert (student["teacher_architecture"], student["label_fraction"], student["labels"]) == ("r152w3sk", 0.01, 12811)
    assert student["pretrain_id"] == "paper-pretrain-r152w3sk"
    chain = [student.name]
    while pd.notna(rows.loc[chain[-1], "parent"]):
        chain.append(rows.loc[chain[-1], "parent"])
    assert len(chain) == 4
    assert student["total_flops"] == pytest.approx(sum(rows.loc[chain, "train_flops"]), rel=1e-12)
    supervised = rows[(rows["stage"] == "supervised") & (rows["architecture"] == "r50")]
    found = {(row.label_fraction, row.regularized): row.top1 for row in supervised.itertuples()}
    assert found == {
        (1.0, False): 0.766,
        (0.01, False): 0.123,
        (0.1, False): 0.52,
        (0.01, True): 0.254,
        (0.1, True): 0.564,
    }


def test_papers_table_1() -> None:
    table = paper.table_1()
    assert len(table) == 13 * 5
    row = table[(table["architecture"] == "r152w3sk") & (table["label_fraction"] == 0.01)].iloc[0]
    assert (row["stage"], row["labels"]) == ("finetune", 12811)
    assert (row["top1"], row["top5"]) == (0.749, 0.923)
    millions = [round(size / 1e6) for size in table["parameters"].drop_duplicates().tolist()]
    assert millions == [24, 35, 94, 140, 43, 65, 170, 257, 58, 89, 233, 354, 795]
    assert NONE.dtypes.equals(table.dtypes)


def test_papers_records_are_written_and_read_like_runs(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for record in paper.records()[:7]:
        write_record(storage, record)
        assert read_record(storage, record.id) == record


def test_other_methods() -> None:
    table = paper.other_methods()
    assert len(table) == 2 * 16
    assert table.loc[table["in_table_3"], "method"].nunique() == 10
    row = table[(table["method"] == "SimCLR") & (table["architecture"] == "ResNet-50 (4x)")].set_index("label_fraction")
    assert row.loc[0.01, ["top1", "top5"]].tolist() == [0.63, 0.858]
    assert set(table.loc[table["concurrent"], "method"]) == {"BYOL"}
    assert table.loc[table["method"] == "Pseudo-label", "top1"].isna().all()


def cells(layout: Layout, *names: str) -> list[str]:
    """Numbers of the row that begins with these names."""
    (row,) = (row for row in layout.rows if row[: len(names)] == names)
    return [row[column].replace("\u00a0", " ") for column in layout.numeric]


def test_papers_tables_alone() -> None:
    found = {number: table_rows(number, paper.table(), paper.table()) for number in NUMBERS}
    assert {number: len(layout.rows) for number, layout in found.items()} == {
        "1": 13,
        "2": 4,
        "3": 15,
        "G.1": 13,
        "G.2": 20,
    }
    assert all(layout.need == "" for layout in found.values())
    assert cells(found["1"], "r152w2sk") == ["74.2 %", "79.4 %", "82.9 %", "79.4 %", "80.4 %"]
    assert cells(found["G.1"], "r101w2") == ["88.9 %", "93.2 %", "95.6 %", "93.4 %", "94.4 %"]
    assert [cells(found["2"], row[0]) for row in found["2"].rows] == [
        ["12.3 %", "52.0 %"],
        ["23.6 %", "66.2 %"],
        ["69.0 %", "75.1 %"],
        ["68.9 %", "74.3 %"],
    ]
    assert cells(found["3"], "supervised, regularized", "r50") == ["25.4 %", "56.4 %", "48.4 %", "80.4 %"]
    assert cells(found["3"], "UDA (w. RandAug)", "ResNet-50") == ["\u2013", "68.8 %", "\u2013", "88.5 %"]
    assert cells(found["3"], "self-distilled", "r152w3sk") == ["76.6 %", "80.9 %", "93.4 %", "95.5 %"]
    assert cells(found["G.2"], "BYOL (concurrent)", "ResNet-200 (2x)") == ["71.2 %", "77.7 %", "89.5 %", "93.7 %"]
    sizes = [row[4].replace("\u00a0", " ") for row in found["1"].rows]
    assert sizes[0] == "24 M" and sizes[-1] == "795 M"


def test_study_stands_beside_the_paper() -> None:
    table = trials(synthetic.study())
    layout = table_rows("1", table, paper.table())
    assert [row[5] for row in layout.rows] == ["this study"] * 3 + ["paper (ImageNet)"] * 13
    seeds = table[
        (table["stage"] == "supervised") & (table["architecture"] == "r18") & (table["label_fraction"] == 0.1)
    ]
    mean, std = 100 * seeds["top1"].mean(), 100 * seeds["top1"].std()
    column = [name.replace("\u00a0", " ") for name in layout.head].index("supervised from scratch, 10 %")
    (row,) = (row for row in layout.rows if row[0] == "r18")
    assert row[column].replace("\u00a0", " ") == f"{mean:.1f} ± {std:.1f} % (n = 2)"
    of_r50 = next(row for row in layout.rows if row[0] == "r50")
    assert of_r50[column] == "\u2013", "not in the paper's Table 1"


def test_losses_of_a_study() -> None:
    layout = table_rows("2", trials(synthetic.ablations()), NONE)
    assert layout.need == ""
    assert cells(layout, "labels, and distillation on the labelled images", "r18", "r34") == ["30.0 %"]
    assert cells(layout, "distillation alone, on all images", "r18", "r50") == ["64.9 %"]
    assert cells(layout, "labels alone", "r18") == ["30.0 %"], "without label smoothing"


def test_losses_are_in_the_order_of_size() -> None:
    rows = table_rows("2", trials(planted.study(seeds=1)), NONE).rows
    alone = [row[1] for row in rows if row[0] == "labels alone"]
    assert alone == sorted(alone, key=planted.SIZES.__getitem__) and len(alone) > 3


def test_tables_that_a_study_lacks_say_what_they_need() -> None:
    for number in NUMBERS:
        for reference in (paper.table(), NONE):
            layout = table_rows(number, NONE, reference)
            assert "needs" in layout.need and (len(layout.rows) > 0) == (reference is not NONE)
            assert all(len(row) == len(layout.head) for row in layout.rows)
    assert "imagenet-table2" in table_rows("2", trials(synthetic.study()), NONE).need
