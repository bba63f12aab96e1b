"""The next experiment: what narrows an interval most for each device-hour, unfinished parents included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest

from reports.next_experiment import ReportedTrial, Suggestion, next_experiments
from reports.records import Record
from reports.tables import trials
from studies import tiny, tiny_study
from study.plan import ExpectedImages, make_plan
from study.reporting import study_info
from synthetic import plain


def finished(architecture: str, top1: Sequence[float], seconds: float = 3600, flops: float = 1e15) -> list[Record]:
    """Fine-tuned trials of one cell, one a seed, each of so many device-seconds and operations."""
    records = []
    for seed, value in enumerate(top1):
        content = plain(
            *(f"ft-{architecture}-s{seed}", "finetune", architecture, seed, None, value),
            label_fraction=0.1,
            head_layer=1,
        )
        content["cost"] |= {"device_seconds": seconds, "train_flops": flops}
        records.append(Record.model_validate(content))
    return records


VARIANT = {name: trials(finished(name, [0.5]))["variant"].iloc[0] for name in ("r18", "r50", "r101")}


def planned(id: str, architecture: str = "r18", flops: float = 1e15, parent: str | None = None) -> ReportedTrial:
    """Another seed of `finished`, if there is any of its architecture."""
    return ReportedTrial(id, "finetune", architecture, 0.1, 1, None, 9, parent, flops, VARIANT[architecture])


def suggest(records: Sequence[Record], *missing: ReportedTrial) -> list[Suggestion]:
    return next_experiments(trials(records), missing)


def test_widest_interval_comes_first_at_equal_cost() -> None:
    records = [*finished("r18", [0.50, 0.52, 0.54]), *finished("r50", [0.60, 0.70, 0.80])]
    first, second = suggest(records, planned("a", "r18"), planned("b", "r50"))
    assert (first.id, second.id) == ("b", "a")
    assert first.half_width == pytest.approx(1.96 * 10 / math.sqrt(3), rel=1e-3)
    assert first.after == pytest.approx(1.96 * 10 / 2, rel=1e-3)
    assert first.device_hours == pytest.approx(1)
    assert "3 seeds" in first.reason and "device-hours" in first.reason


def test_cheaper_trial_comes_first_at_equal_width() -> None:
    records = [
        *finished("r18", [0.50, 0.52], seconds=3600, flops=1e15),
        *finished("r50", [0.60, 0.62], seconds=3600, flops=4e15),  # a faster device, or a model that fills it
    ]
    first, second = suggest(records, planned("a", "r18", 1e15), planned("b", "r50", 2e15))
    assert (first.id, first.device_hours, second.device_hours) == ("b", pytest.approx(0.5), pytest.approx(1))


def test_unknown_architecture_runs_at_the_speed_of_all() -> None:
    records = [*finished("r18", [0.5, 0.6], 3600, 1e15), *finished("r50", [0.5, 0.6], 3600, 3e15)]
    (suggestion,) = suggest(records, planned("a", "r101", 2e15))
    assert suggestion.device_hours == pytest.approx(2e15 * 4 / 8e15)


def test_unfinished_parents_count_once_and_are_told() -> None:
    pretrain = replace(
        planned("p", flops=5e15), stage="pretrain", label_fraction=None, head_layer=None, variant="pretrain"
    )
    teacher = planned("t", flops=2e15, parent="p")
    student = replace(planned("s", flops=1e15, parent="t"), stage="distill", temperature=1.0, variant="student")
    found = {one.id: one for one in suggest(finished("r18", [0.5, 0.6]), pretrain, teacher, student)}
    assert set(found) == {"t", "s"}  # a pretraining has no accuracy of its own
    assert found["s"].device_hours == pytest.approx(8)
    assert "2 unfinished parents" in found["s"].reason
    (alone,) = suggest(finished("r18", [0.5, 0.6]), planned("t", flops=2e15, parent="finished-elsewhere"))
    assert alone.device_hours == pytest.approx(2) and "parent" not in alone.reason


def test_single_seed_takes_the_pooled_spread() -> None:
    records = [
        *finished("r18", [0.50, 0.54]),
        *finished("r50", [0.60, 0.70, 0.80]),
        *finished("r101", [0.9]),
    ]
    (suggestion,) = suggest(records, planned("a", "r101"))
    pooled = math.sqrt((1 * 0.0008 + 2 * 0.01) / 3)
    assert suggestion.half_width == pytest.approx(100 * 1.96 * pooled, rel=1e-3)
    assert suggestion.after == pytest.approx(100 * 1.96 * pooled / math.sqrt(2), rel=1e-3)


def test_empty_cell_is_as_unknown_as_cells_differ() -> None:
    records = [*finished("r18", [0.49, 0.51]), *finished("r50", [0.69, 0.71])]
    (suggestion,) = suggest(records, planned("a", "r101"))
    between, seeds = 0.2 / math.sqrt(2), 0.02 / math.sqrt(2)
    assert suggestion.half_width == pytest.approx(196 * between, rel=1e-3)
    assert suggestion.after == pytest.approx(196 / math.sqrt(between**-2 + seeds**-2), rel=1e-3)
    assert "nothing is known" in suggestion.reason


def test_one_suggestion_a_cell_and_finished_trials_are_none() -> None:
    records = finished("r18", [0.5, 0.6])
    found = suggest(records, planned("ft-r18-s0"), planned("dear", flops=2e15), planned("cheap"))
    assert [one.id for one in found] == ["cheap"]


def test_without_finished_trials_operations_decide_and_hours_are_unknown() -> None:
    first, second = suggest([], planned("dear", "r50", 9e15), planned("cheap", "r18", 1e15))
    assert (first.id, second.id) == ("cheap", "dear")
    assert math.isnan(first.device_hours)
    assert "guessed" in first.reason and "no finished trial" in first.reason
    assert suggest([]) == []


def test_trials_without_a_top1_or_a_time_do_not_mislead() -> None:
    table = trials([*finished("r18", [0.5, 0.6]), *finished("r50", [0.5, 0.6], seconds=7200)])
    table.loc[table["architecture"] == "r50", ["top1", "device_seconds"]] = math.nan
    (suggestion,) = next_experiments(pd.DataFrame(table), [planned("a", "r50")])
    assert "nothing is known" in suggestion.reason and suggestion.device_hours == pytest.approx(1)


def test_other_settings_are_other_cells_and_planned_seeds_belong_to_finished_ones() -> None:
    """Specifications as a plan has them and as records have them give one variant, and each setting its own."""
    stages = tiny()["stages"]
    axes = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "seed": [0, 1]}
    grid = [{**axes, "head_depth": 2, "head_layer": 1}, {**axes, "head_depth": 3, "head_layer": 1}]
    study = tiny_study(grid=grid, stages={name: stages[name] for name in ("pretrain", "finetune")})
    plan = make_plan(study, ExpectedImages.of(study))
    info = study_info(plan)
    records = []
    for id, trial in plan.trials.items():
        content = plain(id, trial.spec.stage, "r10w0.0625", trial.spec.seed, trial.spec.parent, 0.5)
        content["spec"] = trial.spec.plain()
        records.append(Record.model_validate(content))
    table = trials(records).set_index("id")["variant"]
    assert {id: one.variant for id, one in info.planned.items()} == table.to_dict()
    assert table.nunique() == 4, "two heads, pretrained and fine-tuned, each with two seeds"
