"""Records that fit the schema's types and yet cannot be: they are listed, and the report is built without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import synthetic
from reports.build import read_results
from reports.page import build_page
from reports.records import Record
from reports.results import StudyInfo
from reports.storage import Storage
from test_page import planned

GONE = object()

ODD: dict[str, tuple[str, tuple[str, ...], object, str]] = {
    "no-labels": ("finetune", ("spec", "settings", "label_fraction"), GONE, "label_fraction"),
    "text-labels": ("finetune", ("spec", "settings", "label_fraction"), "x", "label_fraction"),
    "five": ("finetune", ("spec", "settings", "label_fraction"), 5, "label_fraction"),
    "zero": ("linear", ("spec", "settings", "label_fraction"), 0, "label_fraction"),
    "negative": ("supervised", ("spec", "settings", "label_fraction"), -0.1, "label_fraction"),
    "flag": ("finetune", ("spec", "settings", "label_fraction"), True, "label_fraction"),
    "student": ("distill", ("spec", "settings", "label_fraction"), 5, "label_fraction"),
    "no-images": ("finetune", ("data", "labelled_images"), 0, "labelled_images"),
    "no-parameters": ("finetune", ("model", "encoder_parameters"), 0, "encoder_parameters"),
    "half-a-layer": ("finetune", ("spec", "settings", "head_layer"), 0.5, "head_layer"),
    "text-layer": ("finetune", ("spec", "settings", "head_layer"), "<b>", "head_layer"),
    "half-a-head": ("pretrain", ("spec", "settings", "head_depth"), 2.5, "head_depth"),
    "huge-seed": ("finetune", ("spec", "seed"), 2**70, "seed"),
    "nameless": ("finetune", ("spec", "architecture"), "", "architecture"),
}


def odd(name: str) -> dict[str, Any]:
    stage, path, value, _ = ODD[name]
    content = synthetic.plain(name, stage, "r34", label_fraction=0.1, head_layer=1)
    target = content
    for step in path[:-1]:
        target = target[step]
    if value is GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return content


def read(tmp_path: Path, *contents: dict[str, Any]) -> tuple[str, list[str]]:
    """The page of what a storage holds, and the reasons of what was left out."""
    (tmp_path / "records").mkdir()
    for content in [*contents, synthetic.plain("good", label_fraction=0.1)]:
        (tmp_path / "records" / f"{content['id']}.json").write_text(json.dumps(content))
    ids = [str(content["id"]) for content in contents]
    study = StudyInfo("odd", "", {id: planned(id) for id in [*ids, "good"]})
    results = read_results(Storage(str(tmp_path)), study)
    assert "good" in {record.id for record in results.records}
    return build_page(results), [problem.reason for problem in results.problems]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_a_problem_that_names_the_field(name: str) -> None:
    with pytest.raises(ValidationError, match=ODD[name][-1]):
        Record.model_validate_json(json.dumps(odd(name)))


def test_the_page_is_built_and_lists_them(tmp_path: Path) -> None:
    page, reasons = read(tmp_path, *map(odd, ODD))
    assert len(reasons) == len(ODD)
    assert all(f"{name}.json" in page for name in ODD)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("distill", {"temperature": 0.0}),
        ("distill", {"temperature": "warm", "distillation_weight": "a", "images": 3}),
        ("pretrain", {"memory": "yes"}),
        ("pretrain", {"memory": {"size": "a", "decay": "b"}}),
    ],
)
def test_settings_that_the_report_does_not_understand_are_gaps(
    tmp_path: Path, stage: str, changes: dict[str, Any]
) -> None:
    page, reasons = read(tmp_path, synthetic.plain("strange", stage, "r34", label_fraction=0.1, **changes))
    assert not reasons and "strange" in page


@pytest.mark.parametrize(("top1", "name"), [(0.0, "r34"), (1.0, "r34"), (0.5, "r50\u2028<b>"), (0.5, "x" * 3000)])
def test_extreme_results_and_names_are_shown(tmp_path: Path, top1: float, name: str) -> None:
    page, reasons = read(tmp_path, synthetic.plain("strange", architecture=name, top1=top1, label_fraction=0.1))
    assert not reasons and "strange" in page
