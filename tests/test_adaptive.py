"""What a study may leave open, and what is refused before anything runs."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies import tiny
from study.adaptive import Dev, Range, Search
from study.check_adaptive import axis_of, setting_paths, stages_left_open
from study.config import Study
from study.grid import expand
from study.load import parse_study
from study.plan import ExpectedImages, make_plan
from trainables.spec import STAGES, Stage

GRID = {"architecture": ["r10w0.0625"], "label_fraction": [0.1]}
RATES = {"learning_rate": {"log": [0.01, 1.0]}}


def study_of(changes: dict[str, dict[str, Any]] | None = None, **top: Any) -> Study:
    stages: dict[str, Any] = copy.deepcopy(tiny()["stages"])
    for stage, more in (changes or {}).items():
        stages[stage] = {**stages[stage], **more}
    return parse_study({**tiny(grid=GRID, stages=stages), **top})


def refusal(changes: dict[str, dict[str, Any]], **top: Any) -> str:
    """The one message with which a study is refused before it is planned."""
    with pytest.raises(ValueError) as error:
        expand(study_of(changes, **top))
    return str(error.value)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"learning_rate": {"log": [1, 0.01]}}, "log: [1.0, 0.01] is upside down or empty; expected the lower end"),
        ({"learning_rate": {"uniform": [1, 0.01]}}, "uniform: [1.0, 0.01] is upside down"),
        ({"epochs": {"int": [3, 3]}}, "int: [3, 3] is upside down or empty"),
        ({"learning_rate": {"log": [0, 1]}}, "log: [0.0, 1.0] must begin above 0"),
        ({"learning_rate": {"log": [-1, 1]}}, "log: [-1.0, 1.0] must begin above 0"),
        ({"learning_rate": {"log": [0.1, 0.2, 0.3]}}, "at most 2 items"),
        ({"learning_rate": {"log": ["a", 1]}}, "learning_rate.log.0` is 'a': input should be a valid number"),
        ({"learning_rate": {"uniform": [0.1, float("inf")]}}, "finite"),
        ({"learning_rate": {"uniform": [float("nan"), 1]}}, "finite"),
        ({"epochs": {"int": [1.5, 3]}}, "epochs.int.0` is 1.5: input should be a valid integer"),
        ({"epochs": {"uniform": [1, 3]}}, "`epochs` cannot be 1.0"),
        ({"learning_rate": {"choices": []}}, "at least 1 item"),
        ({"learning_rate": {"choices": [0.1, 0.1]}}, "names a value twice"),
        ({"learning_rate": {"lgo": [0.1, 1]}}, "learning_rate.lgo`; did you mean `log`?"),
        ({"learning_rate": {}}, "expected one of log, uniform, int or choices, found none"),
        ({"learning_rate": {"log": [0.1, 1], "uniform": [0, 1]}}, "found log and uniform"),
        ({"learning_rate": [0.1, 1]}, "expected a range such as {log: [0.01, 1]}"),
        ({"learning_rate": 0.1}, "expected a range such as {log: [0.01, 1]}"),
        ({"epochs": {"integer": [1, 3]}}, "epochs.integer`; did you mean `int`?"),
        ({"epochs": {"linear": [1, 3]}}, "epochs.linear`; known: log, uniform, int, choices"),
        ({"learning_rat": {"log": [0.1, 1]}}, "no setting `learning_rat` to choose; did you mean `learning_rate`?"),
        ({"finetune.learning_rat": {"log": [0.1, 1]}}, "did you mean `learning_rate`?"),
        ({"color_strenght": {"log": [0.1, 1]}}, "did you mean `color_strength`?"),
        ({"architecture": {"choices": ["r18", "r34"]}}, "no setting `architecture` to choose; known: optimization."),
        ({"temperature": {"uniform": [0.1, 1]}}, "no setting `temperature`"),
        ({"kept_head": {"choices": ["trained", "frozn"]}}, "did you mean `frozen`?"),
        ({"learning_rate": {"uniform": [-1, 1]}}, "`learning_rate` cannot be -1.0"),
        ({"momentum": {"uniform": [0, 1]}}, "`momentum` cannot be 1.0"),
        ({"head_layer": {"int": [0, 4]}}, "head_layer 4 of a head with 3 layers"),
        ({"head_layer": {"uniform": [0, 2]}}, "`head_layer` has the value 0.0, expected int"),
        ({"head_layer": {"choices": [0, "best"]}}, "`head_layer` has the value 'best', expected int"),
        ({**RATES, "optimization.learning_rate": {"log": [0.1, 1]}}, "are the same setting"),
        ({**RATES, "trials": 5, "device_hours": 1.0}, "one budget: `trials` or `device_hours`, not both"),
        ({**RATES, "trials": 0}, "search.trials` is 0, expected a number from 1 to"),
        ({**RATES, "device_hours": 0}, "search.device_hours` is 0, expected a number above 0 to"),
        ({**RATES, "trails": 5}, "unknown key `stages.finetune.search.trails`; did you mean `trials`?"),
        ({**RATES, "pruner": "ahsa"}, "did you mean `asha`?"),
        ({"trials": 3}, "`stages.finetune.search.settings` is {}"),
    ],
)  # fmt: skip
def test_search_that_cannot_be_made_is_refused(search: dict[str, Any], message: str) -> None:
    assert message in refusal({"finetune": {"search": search}})


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"over": {}}, "`stages.finetune.select.over` is {}"),
        ({"over": {"head_layer": []}}, "select.over.head_layer has no values: there is nothing to choose among"),
        ({"over": {"head_layer": [1, 1]}}, "names a value twice: [1, 1]"),
        ({"over": {"head_leyer": [0, 1]}}, "no setting `head_leyer` to choose; did you mean `head_layer`?"),
        ({"over": {"head_layer": [0, 4]}}, "head_layer 4 of a head with 3 layers"),
        ({"over": {"head_layer": [-1]}}, "head_layer -1 must be 0 or more"),
        ({"over": {"learning_rate": [0.1, 0]}}, "`learning_rate` cannot be 0"),
        ({"over": {"learning_rate": ["0.1"]}}, "`learning_rate` cannot be '0.1'"),
        ({"over": {"learning_rate": [0.1], "optimization.learning_rate": [0.2]}}, "are the same setting"),
        ({"over": {"learning_rate": [0.1]}, "by": "top1"}, "did you mean `dev_top1`?"),
        ({"among": {"learning_rate": [0.1]}}, "unknown key `stages.finetune.select.among`"),
    ],
)
def test_selection_that_cannot_be_made_is_refused(select: dict[str, Any], message: str) -> None:
    assert message in refusal({"finetune": {"select": select}})


def test_selecting_and_searching_one_stage_is_refused() -> None:
    both = {"select": {"over": {"head_layer": [0, 1]}}, "search": RATES}
    assert "`select` and `search` exclude each other" in refusal({"finetune": both})


@pytest.mark.parametrize(
    "open_", [{"search": {"head_layer": {"int": [0, 3]}}}, {"select": {"over": {"head_layer": [0, 1]}}}]
)
@pytest.mark.parametrize("layers", [[1], [0, 2], ["best", 1]])
def test_axis_of_the_grid_that_a_stage_chooses_too_is_refused(open_: dict[str, Any], layers: list[Any]) -> None:
    message = refusal({"finetune": open_}, grid={**GRID, "head_layer": layers})
    assert "`head_layer` is an axis of the grid and stages.finetune chooses `head_layer` too" in message


def test_setting_in_a_grid_and_searched_under_its_short_name_is_refused() -> None:
    grids = [GRID, {**GRID, "finetune.optimization.learning_rate": [0.1, 0.2]}]
    message = refusal({"finetune": {"search": RATES}}, grid=grids)
    assert "`finetune.optimization.learning_rate` is an axis of the grid" in message and "`learning_rate`" in message


def test_layer_of_a_head_that_some_grid_does_not_have_is_refused() -> None:
    grids = [{**GRID, "head_depth": [2]}, {**GRID, "head_depth": [4]}]
    assert "head_layer 3 of a head with 2 layers" in refusal(
        {"finetune": {"search": {"head_layer": {"int": [0, 3]}}}}, grid=grids
    )


def test_search_of_a_stage_that_the_study_does_not_run_is_refused() -> None:
    stages = {"pretrain": tiny()["stages"]["pretrain"], "linear": {"search": RATES}}
    assert "`stages.linear.optimization` is required and missing" in refusal({}, stages=stages)


def cannot_be_trained(stage: Stage, search: dict[str, Any], **top: Any) -> str:
    study = study_of({stage: {"search": search}}, **top)
    with pytest.raises(ValueError) as error:
        make_plan(study, ExpectedImages.of(study))
    return str(error.value)


def test_search_that_may_sample_what_cannot_be_trained_is_refused_before_it_does() -> None:
    found = cannot_be_trained("finetune", {"warmup_epochs": {"uniform": [0.0, 3.0]}})
    assert "the search may sample finetune.optimization.warmup_epochs 3, which cannot be trained" in found
    both = {"warmup_epochs": {"uniform": [0.0, 3.0]}, "epochs": {"int": [2, 9]}}
    assert "warmup_epochs 3, finetune.optimization.epochs 2" in cannot_be_trained("finetune", both)
    found = cannot_be_trained("pretrain", {"global_batch_size": {"choices": [50, 161, 100]}})
    assert "global_batch_size 161 exceed the 160 training images" in found  # 40 are held out
    two = {"workers": 2, "per_worker": {"CPU": 1}}
    found = cannot_be_trained("finetune", {"global_batch_size": {"int": [18, 20]}}, execution=two)
    assert "global_batch_size 19 is not a multiple of its 2 workers" in found
    crop = {"crop": {"choices": [True, False]}, "crop_min_area": {"uniform": [0.1, 0.5]}}
    assert "crop_min_area 0.1 has no effect while crop is off" in cannot_be_trained("finetune", crop)


@pytest.mark.parametrize(
    ("stage", "search"),
    [
        ("finetune", {"warmup_epochs": {"uniform": [0.0, 2.0]}, "head_layer": {"int": [0, 3]}}),
        ("finetune", {"kept_head": {"choices": ["frozen", "trained"]}, "head_layer": {"choices": [1, 0]}}),
        ("distill", {"distillation_weight": {"uniform": [0.1, 1.0]}, "images": {"choices": ["all", "labelled"]}}),
        ("distill", {"student": {"choices": ["same", "r18"]}, "self_temperature": {"log": [0.1, 1.0]}}),
        ("pretrain", {"head_depth": {"int": [2, 4]}, "memory.size": {"int": [0, 20]}}),
        ("linear", RATES),
        ("supervised", {"label_smoothing": {"uniform": [0.0, 0.2]}}),
    ],
)
def test_search_whose_samples_can_be_trained_is_planned(stage: Stage, search: dict[str, Any]) -> None:
    study = study_of({stage: {"search": search}})
    plan = make_plan(study, ExpectedImages.of(study))
    assert [choice.stage for choice in plan.open_choices] == [stage]
    assert not [id for id in plan.trials if id.startswith(stage) and "-dev" in id]  # trying is not planning


def test_fewer_labels_than_folds_are_refused() -> None:
    message = refusal({}, grid={**GRID, "head_layer": ["best"]}, dev={"folds": 21})
    assert "20 labelled images at label_fraction 0.1 are fewer than dev.folds 21" in message
    study_of(grid={**GRID, "head_layer": ["best"]}, dev={"folds": 20})


@pytest.mark.parametrize(
    ("dev", "message"),
    [({"folds": 1}, "dev.folds"), ({"few_labels": -1}, "dev.few_labels"), ({"fold": 3}, "did you mean `folds`?")],
)
def test_dev_split_that_holds_out_nothing_is_refused(dev: dict[str, int], message: str) -> None:
    assert message in refusal({}, dev=dev)


def test_best_teacher_among_listed_ones_is_refused() -> None:
    assert "`teacher: best`" in refusal({"distill": {"select": {"over": {"teacher": ["finetuned", "best"]}}}})


@pytest.mark.parametrize(
    ("stage", "workers", "refused"),
    [
        ("finetune", 2, True),
        ("finetune", {"default": 1, "r10w0*": 2}, True),
        ("finetune", {"default": 2, "r10w0*": 1}, False),
        ("linear", 2, False),  # has one worker always
        ("distill", {"default": 2, "r10w0*": 1}, True),  # trains r18
    ],
)
def test_pruner_of_trainings_with_several_workers_is_refused(stage: Stage, workers: Any, refused: bool) -> None:
    changes: dict[str, dict[str, Any]] = {"distill": {"student": "r18"}}
    changes[stage] = {**changes.get(stage, {}), "search": {**RATES, "pruner": "asha"}}
    execution = {"workers": workers, "per_worker": {"CPU": 1}}
    if refused:
        assert "pruner judges trainings of one worker only" in refusal(changes, execution=execution)
    else:
        study_of(changes, execution=execution)
    changes[stage]["search"] = RATES
    study_of(changes, execution=execution)


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_can_be_named_in_full_and_by_its_last_part_where_that_is_unambiguous(stage: Stage) -> None:
    study = study_of()
    paths = setting_paths(study, stage)
    last = Counter(path.split(".")[-1] for path in paths)
    assert {"optimization.learning_rate", "optimization.epochs"} <= set(paths)
    for path in paths:
        short = path.split(".")[-1]
        axis = f"{stage}.{path}"
        assert axis_of(study, stage, path) == axis_of(study, stage, axis) == axis
        if short in paths or last[short] == 1:
            assert axis_of(study, stage, short) == (f"{stage}.{short}" if short in paths else axis)
        else:
            with pytest.raises(ValueError, match="write it in full"):
                axis_of(study, stage, short)


@pytest.mark.parametrize(
    ("stage", "axis"), [("pretrain", "head_depth"), ("finetune", "head_layer"), ("distill", "temperature")]
)
def test_a_stage_s_own_axis_is_named_as_it_is(stage: Stage, axis: str) -> None:
    assert axis_of(study_of(), stage, axis) == axis


@pytest.mark.parametrize(
    ("changes", "top", "expected"),
    [
        ({}, {}, set()),
        ({}, {"grid": {**GRID, "head_layer": ["best"]}}, {"finetune"}),
        ({"linear": {"search": RATES}}, {}, {"linear"}),
        ({"pretrain": {"select": {"over": {"temperature": [0.1, 0.5]}}}}, {}, {"pretrain"}),
        ({"distill": {"teacher": "best"}}, {}, {"distill"}),
        ({}, {"grid": {**GRID, "distill.teacher": ["best", "finetuned"]}}, {"distill"}),
    ],
)
def test_stages_at_which_something_is_open(changes: dict[str, Any], top: dict[str, Any], expected: set[str]) -> None:
    assert stages_left_open(study_of(changes, **top)) == expected


def test_keys_of_a_search_beside_its_settings_and_the_default_budget() -> None:
    search = Search.model_validate({**RATES, "trials": 7, "seed": 3})
    assert set(search.settings) == {"learning_rate"} and (search.trials, search.seed) == (7, 3)
    assert Search.model_validate({"settings": {"trials": {"int": [1, 2]}}}).settings.keys() == {"trials"}
    assert Search.model_validate(RATES).most_trials == 20
    assert Search.model_validate({**RATES, "device_hours": 2}).most_trials is None


@given(st.integers(2, 9), st.integers(0, 100), st.integers(0, 200))
def test_every_fold_is_held_out_where_labels_are_few_and_one_where_they_are_many(
    folds: int, few: int, labelled: int
) -> None:
    held_out = list(Dev(folds=folds, few_labels=few).held_out(labelled))
    assert held_out == (list(range(folds)) if labelled <= few else [0])


def test_ends_of_a_range_are_its_extreme_values() -> None:
    assert Range.model_validate({"int": [2, 5]}).ends == [2, 5]
    assert Range.model_validate({"log": [0.1, 1]}).ends == [0.1, 1.0]
    assert Range.model_validate({"choices": [0, False, "a"]}).ends == [0, False, "a"]
