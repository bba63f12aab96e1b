"""Trials of seconds on the digits' shards, run in this process and without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets.manifest import read_manifest
from digit_shards import CLASSES, SIZE
from trainables.architecture import parse_architecture
from trainables.checkpoint import State, load_state
from trainables.context import Context
from trainables.spec import SETTINGS, DevSplit, Optimization, PretrainAugmentation, Settings, Stage
from trainables.stage import Assignment, Outcome
from trainables.stages import run_stage

PARENT: dict[Stage, Stage | None] = {
    "pretrain": None,
    "linear": "pretrain",
    "finetune": "pretrain",
    "supervised": None,
    "distill": "finetune",
}
FRACTION = 0.3  # 42 of the 140 labelled rows

_DEFAULTS: dict[Stage, dict[str, Any]] = {
    "pretrain": {"head_depth": 3},
    "linear": {"label_fraction": FRACTION},
    "finetune": {"label_fraction": FRACTION, "head_layer": 1},
    "supervised": {"label_fraction": FRACTION},
    "distill": {"label_fraction": FRACTION, "temperature": 0.5, "distillation_weight": 0.5},
}
_SGD = {"optimizer": "sgd", "weight_decay": 1e-3}
_OPTIMIZATION: dict[Stage, dict[str, Any]] = {
    "pretrain": {"global_batch_size": 80, "weight_decay": 1e-4},
    "linear": {"global_batch_size": 20, **_SGD},
    "finetune": {"global_batch_size": 20},
    "supervised": {"global_batch_size": 20, **_SGD},
    "distill": {"global_batch_size": 80, "weight_decay": 1e-4},
}


def settings(stage: Stage, optimization: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Settings of a training of five or six steps, the last batch of each epoch reaching into the next one."""
    common = {"learning_rate": 0.1, "learning_rate_scaling": "none", "epochs": 2}
    fields: dict[str, Any] = {
        "optimization": Optimization(**{**common, **_OPTIMIZATION[stage], **(optimization or {})})
    }
    if stage == "pretrain":
        fields["augmentation"] = PretrainAugmentation(color_strength=0.5, blur=False)
    return SETTINGS[stage](**{**fields, **_DEFAULTS[stage], **changes})


def assignment(
    shards: str,
    settings: Settings,
    parent: str | None = None,
    dev: DevSplit | None = None,
    architecture: str = "r10w0.0625",
) -> Assignment:
    """A trial; by default, of the smallest encoder (4 to 32 channels)."""
    return Assignment(
        architecture=parse_architecture(architecture),
        image_size=SIZE,
        resize="tf1",
        classes=CLASSES,
        seed=1,
        settings=settings,
        shards=shards,
        manifest=read_manifest(shards),
        parent=parent,
        dev=dev,
    )


def run(
    stage: Stage, shards: str, folder: Path, parents: Path, chosen: Settings | None = None
) -> tuple[Outcome, dict[str, Any]]:
    """Run a stage in `folder` from its parent's model below `parents`: its outcome and the weights that it kept."""
    outcome = run_stage(
        stage, assignment(shards, chosen or settings(stage), parent_of(stage, parents)), Context(str(folder))
    )
    return outcome, model(folder)["module"]


def parent_of(stage: Stage, parents: Path) -> str | None:
    """The model of a stage's parent in the folder of parents."""
    parent = PARENT[stage]
    return None if parent is None else str(parents / parent / "model.pt")


def model(folder: Path) -> State:
    """The model that a finished trial kept."""
    state = load_state(f"{folder}/model.pt")
    assert state is not None
    return state
