"""docs/numerics.md names tests that exist and defaults that hold; the presets have the recipes that it states."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from study.config import DEFAULT_AXES, Stages, Study
from study.grid import expand
from study.load import load_study
from study.trial import TrialSpec
from trainables.schedule import peak_learning_rate
from trainables.spec import (
    STAGES,
    Augmentation,
    DistillSettings,
    FinetuneSettings,
    PretrainSettings,
    SupervisedSettings,
)

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "docs/numerics.md").read_text(encoding="utf-8").splitlines()
HEADER = ["detail", "here", "official code / paper", "proven by", "deviation"]
UNTESTED = "**untested**"


def _rows() -> list[list[str]]:
    """The cells of every row below a topic's header; a table of another kind may stand among them."""
    rows: list[list[str]] = []
    header: list[str] = []
    for line in LINES:
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        assert not header or len(cells) == len(header), line
        if not header:
            header = cells
        elif header == HEADER and set("".join(cells)) != {"-"}:
            rows.append(cells)
    return rows


def test_every_row_has_five_cells_and_names_its_tests() -> None:
    rows = _rows()
    assert len(rows) >= 130
    for detail, *cells in rows:
        assert detail and all(cells), detail
        proof = cells[2]
        assert proof in ("-", UNTESTED) or re.fullmatch(r"`test_\w+`(, `test_\w+`){0,2}", proof), proof
        if proof == "-":  # only where there is nothing that a test could hold on to
            assert cells[3] in ("not offered", "unknown", "ours", "not run yet"), detail
    assert len({(detail, *cells) for detail, *cells in rows}) == len(rows)


def test_every_test_on_the_page_exists() -> None:
    defined = [
        node.name
        for file in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    named = set(re.findall(r"`(test_\w+)`", "\n".join(LINES)))
    assert len(named) > 100
    assert {name: count for name in named if (count := defined.count(name)) != 1} == {}


ROOTS: dict[str, type[BaseModel]] = {
    "data": Study,
    "execution": Study,
    "optimization": PretrainSettings,
    "augmentation": SupervisedSettings,
    **dict.fromkeys(STAGES, Stages),
}


def _setting(path: str) -> Any:
    """The default of a setting, or the class of what has none."""
    value: Any = ROOTS[path.partition(".")[0]]
    for name in path.split("."):
        if isinstance(value, BaseModel):
            value = getattr(value, name)
            continue
        field = value.model_fields[name]
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        models = [kind for kind in kinds if issubclass(kind, BaseModel)]
        default = field.get_default()
        value = models[0] if models and not isinstance(default, BaseModel) else default
    return value


def test_defaults_on_the_page_are_those_of_the_code() -> None:
    text = "\n".join(LINES)
    tokens = re.findall(r"`([a-z]\w*(?:\.\w+)+)(?:=([^`]+))?`", text)
    settings = [(path, value) for path, value in tokens if path.partition(".")[0] in ROOTS]
    assert len(settings) > 30
    for path, value in settings:
        default = _setting(path)
        assert not value or default == yaml.safe_load(value), f"{path} is {default!r} by default"
    axes = {axis: yaml.safe_load(value) for axis, value in re.findall(r"axis `(\w+)=([^`]+)`", text)}
    assert axes == DEFAULT_AXES


def _specs(preset: str) -> list[TrialSpec]:
    return list(expand(load_study(ROOT / f"study/presets/{preset}.yaml")).specs.values())


def _recipe(spec: TrialSpec) -> tuple[Any, ...]:
    """Optimizer, peak learning rate, batch, epochs, epochs of warm-up, weight decay."""
    o = spec.settings.optimization
    peak = round(peak_learning_rate(o), 9)
    return o.optimizer, peak, o.global_batch_size, o.epochs, o.warmup_epochs, o.weight_decay


def _pretrain(spec: TrialSpec) -> tuple[Any, ...]:
    s = spec.settings
    assert isinstance(s, PretrainSettings)
    return s.temperature, s.memory.size, s.memory.decay, s.augmentation.color_strength, s.augmentation.blur


def test_presets_have_the_papers_recipes() -> None:
    few = (0.01, 0.1)
    for spec in _specs("imagenet-table1"):
        s, precision = spec.settings, spec.settings.optimization.precision
        larger = re.search("w|sk", spec.architecture) is not None
        assert precision == ("float32" if spec.stage == "linear" else "bfloat16")
        if spec.stage == "pretrain":
            assert _recipe(spec) == ("lars", 6.4, 4096, 800, 40, 1e-4)
            assert _pretrain(spec) == (0.1, 65_536, 0.999, 1.0, True)
            assert isinstance(s, PretrainSettings) and s.head_depth == 3
        elif spec.stage == "linear":
            assert _recipe(spec) == ("sgd", 1.6, 4096, 90, 0, 1e-6)
        elif isinstance(s, FinetuneSettings):
            epochs = 60 if s.label_fraction == 0.01 else 30
            assert _recipe(spec) == ("lars", 0.064 if larger else 0.16, 1024, epochs, 0, 0)
            assert s.head_layer == (1 if s.label_fraction in few else 0)
        else:
            assert isinstance(s, SupervisedSettings)
            assert _recipe(spec) == ("sgd", 0.4, 1024, 90, 5, 1e-4)
            policy = (s.augmentation.auto_augment, s.label_smoothing)
            assert policy == (("imagenet", 0.1) if s.label_fraction in few else ("none", 0.0))
    supervised = [s for spec in _specs("imagenet-table2") if isinstance(s := spec.settings, SupervisedSettings)]
    assert {(s.augmentation.auto_augment, s.label_smoothing) for s in supervised} == {("none", 0.0)}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("imagenet-table2", {("r50", 1.0, 1.0, "all"), ("r50", 1.0, 0.5, "all"), ("r50", 1.0, 0.5, "labelled")}),
        (
            "imagenet-table3",
            {("r152w3sk", 0.1, 1.0, "all"), ("r50", 1.0, 1.0, "all"), ("r50w2sk", 1.0, 1.0, "all")},
        ),
    ],
)
def test_distillation_presets_have_the_papers_recipes(preset: str, expected: set[tuple[Any, ...]]) -> None:
    found = set()
    for spec in _specs(preset):
        if isinstance(s := spec.settings, DistillSettings):
            assert _recipe(spec) == ("lars", 6.4, 4096, 400, 20, 1e-4)
            assert s.augmentation == Augmentation()
            found.add((spec.architecture, s.temperature, s.distillation_weight, s.images))
    assert found == expected


def test_cifar10_preset_has_the_official_recipe() -> None:
    by_stage = {spec.stage: spec for spec in _specs("cifar10") if spec.architecture == "r18"}
    assert _recipe(by_stage["pretrain"]) == ("lars", 2.0, 512, 500, 10, 1e-4)
    assert _pretrain(by_stage["pretrain"]) == (0.5, 0, 0.0, 0.5, False)
    assert _recipe(by_stage["linear"]) == ("sgd", 0.2, 512, 100, 0, 0)
    assert _pretrain(next(spec for spec in _specs("digits") if spec.stage == "pretrain")) == (0.5, 0, 0.0, 0.5, False)
