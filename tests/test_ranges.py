"""Numbers out of range are refused by the field's name with the range expected, before anything counts with them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from studies import tiny, tiny_study
from study.cells import cells
from study.check import MOST_CELLS, check_number
from study.cli import main
from study.config import Grid
from study.grid import expand
from study.load import load_study, parse_study, with_seeds
from study.plan import ExpectedImages, make_plan
from trainables.architecture import parse_architecture

HUGE = 10**30
SEARCH = {"learning_rate": {"log": [0.01, 1]}}


def study_with(path: str, value: Any) -> dict[str, Any]:
    """The tiny study with one value changed; a dotted path's last parts may be new."""
    raw = tiny()
    node = raw
    *parents, last = path.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return raw


@pytest.mark.parametrize("value", [HUGE, -1, 1e308, float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("path", "limits"),
    [
        ("data.image_size", "from 4 to 4,096"),
        ("data.train_images", "from 1 to 10,000,000,000"),
        ("data.classes", "from 2 to 1,000,000"),
        ("data.label_seed", "from 0 to 9,223,372,036,854,775,807"),
        ("data.train_limit", "from 1 to 10,000,000,000"),
        ("stages.pretrain.temperature", "from 1e-06 to 1000"),
        ("stages.pretrain.memory.size", "from 0 to 1,000,000,000"),
        ("stages.pretrain.micro_batches", "from 1 to 10,000,000"),
        ("stages.pretrain.optimization.global_batch_size", "from 1 to 10,000,000"),
        ("stages.pretrain.optimization.epochs", "from 1 to 1,000,000"),
        ("stages.pretrain.optimization.warmup_epochs", "from 0 to 1,000,000"),
        ("stages.pretrain.optimization.learning_rate", "from 1e-12 to 1e+06"),
        ("stages.pretrain.optimization.weight_decay", "from 0 to 1e+06"),
        ("stages.distill.self_temperature", "from 1e-06 to 1000"),
        ("stages.distill.distillation_weight", "from 0 to 1"),
        ("execution.checkpoint_seconds", "from 0 to 1e+07"),
        ("execution.max_workers", "from 1 to 100,000"),
        ("execution.preemption_retries", "from 0 to 10,000"),
        ("execution.per_worker.CPU", "from 0.0001 to 1e+18"),
        ("dev.folds", "from 2 to 1,000"),
        ("dev.few_labels", "from 0 to 10,000,000,000"),
        ("explore.budget_device_hours", "above 0 to 1e+09"),
    ],
)
def test_number_out_of_range_is_refused_by_its_field(path: str, limits: str, value: float) -> None:
    with pytest.raises(ValueError) as error:
        parse_study(study_with(path, value))
    whole_wanted = "," in limits and isinstance(value, float)
    assert f"`{path}` is " in str(error.value)
    assert limits in str(error.value) or (whole_wanted and "integer" in str(error.value)), error.value
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("seed", 2**63, "seed 9223372036854775808 is outside 0 to 9,223,372,036,854,775,807"),
        ("seed", -1, "seed -1 is outside"),
        ("temperature", HUGE, "is outside 1e-06 to 1000"),
        ("temperature", float("nan"), "is outside 1e-06 to 1000"),
        ("temperature", float("inf"), "is outside 1e-06 to 1000"),
        ("label_fraction", HUGE, "is outside"),
        ("label_fraction", float("nan"), "is outside"),
        ("head_layer", HUGE, "does not exist"),
        ("head_depth", HUGE, "is outside 2 to 4"),
        ("architecture", "r50w" + "9" * 400, "404 characters; expected at most 40"),
        ("architecture", "r50w1000000", "wider than 64 times"),
        ("architecture", "r" + "9" * 30, "unknown architecture"),
        ("pretrain.optimization.epochs", HUGE, "expected a number from 1 to 1,000,000"),
    ],
)
def test_axis_out_of_range_is_refused(axis: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"grid|architecture|seed|temperature|label|head") as error:
        parse_study(tiny(grid={**tiny()["grid"], axis: [value]}))
    assert message in str(error.value)


def test_every_seed_that_torch_takes_is_planned() -> None:
    study = tiny_study(grid={**tiny()["grid"], "seed": [2**63 - 1]})
    assert {spec.seed for spec in expand(study).specs.values()} == {2**63 - 1}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({**SEARCH, "trials": HUGE}, "from 1 to 10,000"),
        ({**SEARCH, "device_hours": HUGE}, "above 0 to 1e+09"),
        ({**SEARCH, "seed": 2**63}, "from 0 to 9,223,372,036,854,775,807"),
        ({**SEARCH, "parallel": HUGE}, "from 1 to 100,000"),
        ({1: {"log": [0.01, 1]}}, "`stages.pretrain.search"),
        ({"epochs": {"int": [1, HUGE]}}, "from 1 to 1,000,000"),
        ({"learning_rate": {"log": [1e-300, HUGE]}}, "from 1e-12 to 1e+06"),
        ({f"x{n}": {"choices": [1]} for n in range(11)}, "10 items"),
        ({"learning_rate": {"choices": [0.1 + n for n in range(1001)]}}, "1000 items"),
    ],
)
def test_search_out_of_range_is_refused(search: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_study(study_with("stages.pretrain.search", search))
    assert message in str(error.value) and len(str(error.value)) < 2_000


def test_too_many_combinations_to_select_among_are_refused() -> None:
    over = {"learning_rate": [0.1 + n for n in range(40)], "weight_decay": [n / 100 for n in range(40)]}
    with pytest.raises(ValueError, match="1,600 combinations; expected at most 1,000"):
        parse_study(study_with("stages.finetune.select", {"over": over}))


@pytest.mark.parametrize("raw", [{1: 2}, {**tiny(), 3: 4}, tiny(data={**tiny()["data"], 5: 6})])
def test_key_that_is_no_text_is_refused(raw: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"key|required"):
        parse_study(raw)


@pytest.mark.parametrize("seeds", [-1, 0, 100_001, 10**9, 10**30])
def test_too_many_seeds_are_refused_at_once(seeds: int) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="expected 1 to 100,000"):
        with_seeds(tiny_study(), seeds)
    assert time.process_time() - started < 2


def test_cells_are_counted_before_they_are_made() -> None:
    seeds = list(range(1_000))
    fractions = [n / 1_000 for n in range(1, 1_001)]
    with pytest.raises(ValueError, match="the grid has 1,000,000 cells, expected at most 200,000"):
        parse_study(tiny(grid={**tiny()["grid"], "seed": seeds, "label_fraction": fractions}))
    study = tiny_study(grid={**tiny()["grid"], "label_fraction": fractions[:3]})
    with pytest.raises(ValueError, match="the grid has 300,000 cells"):
        with_seeds(study, 100_000)
    assert MOST_CELLS >= 100_000 and len(list(cells(Grid(axes={"seed": list(range(10))})))) == 10


def test_trials_are_counted_as_they_are_made() -> None:
    check_number(500_000)
    with pytest.raises(ValueError, match="more than 500,000 trials"):
        check_number(500_001)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "supervised", "distill"])
def test_batch_of_one_has_nothing_to_compare_with(stage: str) -> None:
    study = parse_study(study_with(f"stages.{stage}.optimization.global_batch_size", 1))
    with pytest.raises(ValueError, match=r"global_batch_size 1 leaves one image .* take 2 or more"):
        make_plan(study, ExpectedImages.of(study))
    linear = parse_study(study_with("stages.linear.optimization.global_batch_size", 1))
    assert make_plan(linear, ExpectedImages.of(linear)).trials, "a linear classifier has no batch norm"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gpu", "GPU"), ("Gpu", "GPU"), ("GPUs", "GPU"), ("cpu", "CPU"), ("num_gpus", "GPU"), ("Memory", "memory")],
)
def test_resource_that_is_misspelled_is_refused(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`, which no node has; did you mean `{meant}`"):
        tiny_study(execution={"per_worker": {name: 1}})


def test_resources_that_nodes_were_given_are_kept() -> None:
    assert tiny_study(execution={"per_worker": {"GPU": 1, "L4": 1, "trainer": 0.5}}).execution.per_worker["L4"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "STUDY", "--devices", "1000000000000000000000"),
        ("launch", "STUDY", "--seeds", "1000000000"),
        ("launch", "STUDY", "--budget-gpu-hours", "inf"),
        ("launch", "STUDY", "--budget-gpu-hours", "1e400"),
        ("report", "STUDY", "--serve", "--port", "70000"),
        ("shard", "digits", "/nowhere", "--label-seed", "9223372036854775808"),
        ("shard", "digits", "/nowhere", "--train-limit", "0"),
    ],
)
def test_option_out_of_range_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study/presets/digits.yaml" if word == "STUDY" else word for word in arguments]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {arguments[-2]} ") and ": expected " in said and len(said) < 200


def test_number_of_five_thousand_digits_is_refused_in_a_short_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["launch", "study/presets/digits.yaml", "--seeds", "9" * 300_000])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "characters left out" in said and len(said.splitlines()[-1]) <= 2_000


def test_messages_are_bounded_where_they_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("".join(f"key{n}: 1\n" for n in range(20_000)))
    assert main(["plan", str(file)]) == 2
    said = capsys.readouterr().err
    assert len(said.rstrip("\n")) <= 2_000 and str(file) in said
    assert main(["plan", "x" * 300_000]) == 2
    said = capsys.readouterr().err
    assert len(said.rstrip("\n")) <= 2_000 and said.startswith("error: no study file xxx")
    assert "characters left out" in said and "presets" in said


def test_wrong_type_says_to_write_quotes(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: 2024\n")
    with pytest.raises(ValueError, match="`name` is 2024: input should be a valid string; write quotes around it"):
        load_study(file)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("stages.pretrain.optimization.epochs", "10", True),
        ("stages.pretrain.temperature", "1e-1", True),
        ("stages.pretrain.augmentation.blur", "true", True),
        ("stages.pretrain.optimization.epochs", "ten", False),
        ("stages.pretrain.optimization.epochs", "0x1F", False),
    ],
)
def test_number_in_quotes_is_said_to_be_one(path: str, value: str, told: bool) -> None:
    with pytest.raises(ValueError, match=f"`{path}` is '{value}'") as error:
        parse_study(study_with(path, value))
    assert ("; write it without quotes" in str(error.value)) == told


def test_widest_network_is_read() -> None:
    assert parse_architecture("r50w64").width == 64
