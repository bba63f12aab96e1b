"""Every setting of every stage, and of the data, changes what it says and nothing else.

The settings are found by the specifications themselves: one without a value to try here fails the test. Each is changed
alone, from a base in which it has an effect, in a training of a few steps in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

import trials
from digit_shards import digits, write
from study.trial import DataIdentity
from trainables.context import Context
from trainables.networks.encoder import Encoder
from trainables.spec import SETTINGS, STAGES, Settings, Stage
from trainables.stage import Assignment
from trainables.stages import run_stage

# What is looked at: the first images that the encoder sees in training, and the last that it sees in evaluation; the
# learning rates and the number of steps; the first loss, and the later ones; weights, moving statistics and metrics.
EVERYTHING = frozenset(
    {"first images", "test images", "rates", "steps", "first loss", "losses", "weights", "statistics", "metrics"}
)
TRAINED = frozenset({"losses", "weights", "statistics", "metrics"})
"""What changes where updates do."""
LOSS = TRAINED | {"first loss"}
VIEWS = LOSS | {"first images"}


@dataclass(frozen=True)
class Case:
    """Another value for a setting, what it changes, and what else is set in both trainings."""

    value: Any
    changes: frozenset[str]
    base: dict[str, Any] = field(default_factory=dict)


MEMORY = {"memory.size": 120, "memory.decay": 0.5}
LARGE = {"image_size": 24}  # on smaller ones the blur has one pixel
AUGMENTATION = {
    "crop": Case(False, VIEWS, {"augmentation.crop_min_area": 0.08}),
    "crop_min_area": Case(0.9, VIEWS),
    "flip": Case(False, VIEWS),
    "auto_augment": Case("cifar10", VIEWS),
    "color_strength": Case(1.0, VIEWS),
    "blur": Case(True, VIEWS, LARGE),
}
CASES: dict[str, Case] = {
    "optimization.optimizer": Case("sgd", TRAINED),
    "optimization.learning_rate": Case(0.2, TRAINED | {"rates"}),
    "optimization.learning_rate_scaling": Case("sqrt", TRAINED | {"rates"}),
    "optimization.momentum": Case(0.5, TRAINED),
    "optimization.weight_decay": Case(0.1, TRAINED),
    "optimization.global_batch_size": Case(16, VIEWS | {"rates", "steps"}),
    "optimization.epochs": Case(4, TRAINED | {"rates", "steps"}),
    "optimization.warmup_epochs": Case(1.0, TRAINED | {"rates"}),
    "optimization.precision": Case("float32", VIEWS | {"test images"}),
    "optimization.beta2": Case(0.5, TRAINED, {"optimization.optimizer": "adamw"}),
    "optimization.layer_decay": Case(0.5, TRAINED),
    **{f"augmentation.{name}": case for name, case in AUGMENTATION.items()},
    "micro_batches": Case(2, VIEWS),  # the first images that pass are every second one
    "moving_variance": Case("unbiased", frozenset({"statistics", "metrics"})),
    "temperature": Case(0.7, LOSS),
    "memory.size": Case(120, LOSS - {"first loss"}),
    "memory.decay": Case(0.5, LOSS - {"first loss"}),
    "memory.batch_keys": Case("encoder", LOSS - {"first loss"}, MEMORY),
    "memory.enqueue": Case("first", LOSS - {"first loss"}, MEMORY),
    "memory.key_batch_norm": Case("moving", LOSS, MEMORY),
    "head_depth": Case(2, LOSS),
    "kept_head": Case("frozen", TRAINED),
    "head_layer": Case(2, TRAINED),
    "label_fraction": Case(0.6, VIEWS | {"rates", "steps"}),
    "label_smoothing": Case(0.2, LOSS),
    "distillation_weight": Case(0.2, LOSS),
    "scale_by_temperature_squared": Case(True, LOSS),
    "images": Case("labelled", VIEWS | {"rates", "steps"}, {"optimization.epochs": 6}),
}
OF_STAGE: dict[tuple[Stage, str], Case] = {
    ("distill", "label_fraction"): Case(0.6, LOSS),  # all images are learned from, more of them with labels
}
OF_DATA: dict[str, Case] = {
    "resize": Case("tf2", VIEWS | {"test images"}, {"image_size": 12}),
    "image_size": Case(12, VIEWS | {"test images"}),
    "classes": Case(12, LOSS),
}
REFUSED: set[tuple[Stage, str]] = {("linear", "optimization.layer_decay")}  # they could not change anything
ONLY_BEFORE_TRAINING = {
    "name": "which shards are read, by the folder's name",
    "label_seed": "which labels are known first; it is used when the shards are written",
    "train_limit": "how many images are written to the shards",
    "test_limit": "how many images are written to the shards",
}


def paths(spec: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted paths of all settings below a specification."""
    for name, info in spec.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from paths(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def base_of(stage: Stage) -> dict[str, Any]:
    """The settings of a training of three steps or more that most settings have an effect in."""
    batch = 80 if stage in ("pretrain", "distill") else 20
    base: dict[str, Any] = {
        "optimization.learning_rate": 0.1,
        "optimization.learning_rate_scaling": "none",
        "optimization.global_batch_size": batch,
        "optimization.epochs": 2,
        "optimization.weight_decay": 1e-3,
        "optimization.precision": "float64",
    }
    if stage == "linear":
        return base | {"label_fraction": trials.FRACTION, "optimization.optimizer": "lars"}
    base |= {"augmentation.crop_min_area": 0.3, "augmentation.color_strength": 0.5, "augmentation.blur": False}
    own: dict[Stage, dict[str, Any]] = {
        "pretrain": {"head_depth": 3},
        "finetune": {"label_fraction": trials.FRACTION, "head_layer": 1},
        "supervised": {"label_fraction": trials.FRACTION},
        "distill": {"label_fraction": trials.FRACTION, "temperature": 0.5, "distillation_weight": 0.5},
    }
    return base | own[stage]


def settings_of(stage: Stage, flat: dict[str, Any]) -> Settings:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split(".")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return SETTINGS[stage].model_validate(nested)


@contextmanager
def encoder_inputs() -> Iterator[list[Tensor]]:
    """All images that encoders see from now on, in order."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Encoder):
            seen.append(inputs[0].detach().clone())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def digest(value: object) -> str:
    """Equal for equal tensors and numbers, bit by bit."""
    if isinstance(value, Tensor):
        value = (tuple(value.shape), str(value.dtype), value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        value = {name: digest(one) for name, one in value.items()}
    return hashlib.sha256(repr(value).encode()).hexdigest()


Run = Callable[[Stage, dict[str, Any]], dict[str, str]]
"""A training with these settings, those of the data among them: digests of what is looked at."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("settings")
    shards = write(digits(), folder / "shards")
    known: dict[str, dict[str, str]] = {}

    def run_once(stage: Stage, flat: dict[str, Any]) -> dict[str, str]:
        key = digest({"stage": stage, **flat})
        if key not in known:
            data = {name: flat[name] for name in OF_DATA if name in flat}
            settings = settings_of(stage, {name: value for name, value in flat.items() if name not in data})
            parents = _parents(stage, data, shards, folder)
            assignment = trials.assignment(shards, settings, trials.parent_of(stage, parents))
            known[key] = _looked_at(stage, replace(assignment, **data), folder / key[:16])
        return known[key]

    return run_once


def _parents(stage: Stage, data: dict[str, Any], shards: str, folder: Path) -> Path:
    """The folder of the parents that a stage needs, for images and classes such as these."""
    sizes = {name: data[name] for name in ("image_size", "classes") if name in data}
    parents = folder / f"parents-{sizes}"
    lineage: tuple[Stage, ...] = ()
    if stage in ("linear", "finetune"):
        lineage = ("pretrain",)
    elif stage == "distill":
        lineage = ("pretrain", "finetune")
    for parent in lineage:
        if not (parents / parent / "model.pt").exists():
            assignment = trials.assignment(shards, trials.settings(parent), trials.parent_of(parent, parents))
            run_stage(parent, replace(assignment, **sizes), Context(str(parents / parent)))
    return parents


def _looked_at(stage: Stage, assignment: Assignment, folder: Path) -> dict[str, str]:
    with encoder_inputs() as seen:
        outcome = run_stage(stage, assignment, Context(str(folder)))
    history, module = outcome.progress.history, trials.model(folder)["module"]
    assert len(history) == outcome.progress.step >= 3, "every step has a row"
    losses = [{name: row[name] for name in sorted(row.keys() - {"step", "epoch", "learning_rate"})} for row in history]
    statistics = {name: value for name, value in module.items() if "running_" in name}
    found = {
        "first images": seen[0],
        "test images": seen[-1],
        "rates": [row["learning_rate"] for row in history],
        "steps": outcome.progress.step,
        "first loss": losses[0]["loss"],
        "losses": losses[1:],
        "weights": {name: value for name, value in module.items() if name not in statistics},
        "statistics": statistics,
        "metrics": outcome.metrics,
    }
    return {name: digest(value) for name, value in found.items()}


EVERY_SETTING = [(stage, path) for stage in STAGES for path in paths(SETTINGS[stage]) if (stage, path) not in REFUSED]


@pytest.mark.parametrize(("stage", "path"), EVERY_SETTING)
def test_a_setting_changes_what_it_says_and_nothing_else(stage: Stage, path: str, run: Run) -> None:
    assert path in CASES, f"give a value to try for the new setting {path}, and say what it changes"
    case = OF_STAGE.get((stage, path), CASES[path])
    base = base_of(stage) | case.base
    before, after = run(stage, dict(base)), run(stage, base | {path: case.value})
    changed = {name for name in EVERYTHING if before[name] != after[name]}
    assert changed == _of_stage(case.changes, stage, path)


@pytest.mark.parametrize(("stage", "path"), sorted(REFUSED))
def test_a_setting_without_an_effect_is_refused(stage: Stage, path: str) -> None:
    with pytest.raises(ValueError, match=f"{path.rpartition('.')[2]} .* has no effect"):
        settings_of(stage, base_of(stage) | {path: CASES[path].value})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", DataIdentity.model_fields)
def test_what_is_set_of_the_data_changes_what_it_says(stage: Stage, name: str, run: Run) -> None:
    if name in ONLY_BEFORE_TRAINING:
        return
    assert name in OF_DATA, f"give a value to try for the new setting data.{name}, and say what it changes"
    base = base_of(stage) | OF_DATA[name].base
    before, after = run(stage, dict(base)), run(stage, base | {name: OF_DATA[name].value})
    changed = {name for name in EVERYTHING if before[name] != after[name]}
    assert changed == _of_stage(OF_DATA[name].changes, stage, name)


def _of_stage(changes: frozenset[str], stage: Stage, path: str) -> frozenset[str]:
    """What a setting changes in a stage that does not have all that is looked at."""
    without: set[str] = set()
    if stage in ("linear", "finetune") and path not in ("classes", "optimization.precision"):
        without |= {"first loss"}  # their classifier starts at zero: the loss is that of guessing
    if (stage, path) == ("pretrain", "classes"):
        without |= {"statistics"}  # the probe is no part of the encoder
    if stage == "linear":
        without |= {"statistics"}  # it trains a linear layer
        if path == "optimization.global_batch_size":
            without |= {"first images"}  # the encoder sees all labelled images before
    return changes - without


def test_every_epoch_has_other_views_of_the_same_images(tmp_path: Path) -> None:
    shards = write(digits(), tmp_path / "shards")
    rows = {"optimization.global_batch_size": 42, "optimization.epochs": 3}  # every step is an epoch
    flat = base_of("supervised") | rows
    with encoder_inputs() as seen:
        run_stage("supervised", trials.assignment(shards, settings_of("supervised", flat)), Context(str(tmp_path)))
    epochs = [{digest(view) for view in views} for views in seen[:3]]
    assert [len(views) for views in epochs] == [42, 42, 42]
    assert len(epochs[0] | epochs[1] | epochs[2]) == 3 * 42


def test_the_momentum_encoder_follows_before_it_makes_the_keys_of_a_step(tmp_path: Path) -> None:
    """Network k of step t is decay * k of step t - 1 + (1 - decay) * the encoder as step t finds it."""
    shards = write(digits(), tmp_path / "shards")
    decay, flat = 0.75, base_of("pretrain") | {"memory.decay": 0.75, "memory.size": 120}
    weights: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Encoder) and module.training:
            weights.append(module.stem[0].weight.detach().clone())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        run_stage("pretrain", trials.assignment(shards, settings_of("pretrain", flat)), Context(str(tmp_path)))
    finally:
        handle.remove()
    keys, queries = weights[0::2], weights[1::2]
    assert len(keys) == len(queries) >= 3 and torch.equal(keys[0], queries[0])
    expected = keys[0]
    for key, query in zip(keys[1:], queries[1:], strict=True):
        expected = decay * expected + (1 - decay) * query
        torch.testing.assert_close(key, expected, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(key, query, rtol=1e-6)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors are tiny: other threads would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
