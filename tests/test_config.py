from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from studies import tiny
from study.config import Execution
from study.grid import expand
from study.load import load_study

PRESETS = sorted(Path("study/presets").glob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    return path


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid_and_says_how_to_run_it(preset: Path) -> None:
    study = load_study(preset)
    assert expand(study.model_copy(update={"explore": None})).specs
    assert study.name == preset.stem
    opening = preset.read_text().split("name:")[0]
    assert all(words in opening for words in (f"study/presets/{preset.name}", "Hardware", "Expected"))


def test_exponent_without_a_dot_is_a_number(file: Path) -> None:
    study = load_study(file, ["pretrain.optimization.weight_decay=1e-4"])
    assert study.stages.pretrain is not None
    assert study.stages.pretrain.optimization.weight_decay == 1e-4


def test_override_reaches_every_grid_of_a_study(file: Path) -> None:
    axes = tiny()["grid"]
    file.write_text(yaml.safe_dump(tiny(grid=[axes, {**axes, "label_fraction": [1.0]}])))
    study = load_study(file, ["grid.architecture=[r18, r34]"])
    assert [grid.axes["architecture"] for grid in study.grid] == [["r18", "r34"]] * 2


def test_base_is_merged_key_by_key_below_the_study(file: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("base: study.yaml\nname: child\nstages: {pretrain: {temperature: 0.7}}\n")
    study = load_study(child)
    assert study.name == "child" and study.stages.pretrain is not None and study.stages.linear is not None
    assert study.stages.pretrain.temperature == 0.7
    assert study.stages.pretrain.optimization.epochs == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.archtecture=[r18]", "unknown grid axis `archtecture`; did you mean `architecture`"),
        ("grid.architecture=[r51]", "r50"),
        ("grid.architecture=[resnet18]", "r18"),
        ("grid.label_fraction=[0]", "label_fraction 0 is outside"),
        ("grid.label_fraction=[2]", "label_fraction 2 is outside"),
        ("grid.label_fraction=['1%']", "expected float or int"),
        ("grid.temperature=[0]", "temperature 0 is outside 1e-06 to 1000"),
        ("grid.head_layer=[4]", "head_layer 4 of a projection head with 3 layers does not exist"),
        ("grid.head_depth=[7]", "head_depth 7 is outside 2 to 4"),
        ("grid.seed=[1.5]", "expected int"),
        ("grid.seed=[]", "no values"),
        ("grid.seed=[1, 1]", "twice"),
        ("grid.label_fraction=[1, 0.1, 1.0]", "names a value twice: [1, 0.1, 1.0]"),
        ("grid.distil.student=[r18]", "did you mean"),
        ("grid.distill.colour=[r18]", "no setting `colour`"),
        ("stages.pretrian={}", "did you mean `pretrain`"),
        ("pretrain.temperature=0", "expected a number from 1e-06 to 1000"),
        ("pretrain.temperature=warm", "`stages.pretrain.temperature` is 'warm'"),
        ("pretrain.optimization.optimizer=larz", "did you mean `lars`"),
        ("pretrain.optimization.epochs=1.5", "`stages.pretrain.optimization.epochs` is 1.5"),
        ("stages.pretrain=null", "add 'pretrain' to `stages`"),
        ("distill.student=r51", "r50"),
        ("execution.workers=0", "must be 1 to 100,000"),
        ("execution={workers: {}, per_worker: {GPU: 0.5}}", "must be 1 to 100,000"),
        ("execution.per_worker={CPU: 0}", "expected a number from 0.0001 to 1e+18"),
        ("execution.per_worker={GPU: 2}", "asks for 2 GPUs, of which a worker uses one"),
        ("execution={per_worker: {GPU: 0.5}, workers: {r18: 1, r50: 4}}", "does not connect workers that share a GPU"),
        ("data.image_size=0", "expected a number from 4 to 4,096"),
        ("finetune.when=[{where: {colour: 1}, set: {}}]", "does not change this stage"),
        ("finetune.when=[{where: {seed: 0}, set: {optimization.epoch: 1}}]", "no setting `optimization.epoch`"),
        ("name", "expected path=value"),
    ],
)
def test_bad_input_is_named_with_what_was_expected(file: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        expand(load_study(file, [override]))
    assert message in str(error.value)


def test_missing_file_names_the_presets() -> None:
    with pytest.raises(ValueError, match=r"did you mean study/presets/digits\.yaml"):
        load_study("study/presets/digit.yaml")


def test_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold a mapping"):
        load_study(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="line 2, column 1: this is not YAML"):
        load_study(path)


def test_architectures_without_a_number_of_workers_have_one() -> None:
    execution = Execution.model_validate({"workers": {"r50": 2, "r152*": 8}})
    assert [execution.workers_of("pretrain", name) for name in ("r50", "r152w3sk", "r18")] == [2, 8, 1]
    assert execution.workers_of("linear", "r152w3sk") == 1
