"""The plan of a study: its merged trials with their cost, and which of them are finished."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol

from study.check import check_batch, micro_batches
from study.config import Execution, Study
from study.grid import expand
from study.trial import TrialSpec
from trainables.architecture import (
    PROJECTION_DIM,
    Architecture,
    encoder_parameters,
    feature_dim,
    forward_flops,
    head_flops,
    parse_architecture,
)
from trainables.schedule import learning_rate_at, total_steps
from trainables.spec import DistillSettings, FinetuneSettings, LinearSettings, PretrainSettings, Stage


class Images(Protocol):
    """How many images a study trains on."""

    @property
    def train_images(self) -> int: ...

    def labelled(self, label_fraction: float) -> int: ...


@dataclass(frozen=True)
class ExpectedImages:
    """Counts as the study's file states them, before its images were sharded; the rows of a fraction are estimated."""

    train_images: int
    classes: int

    @classmethod
    def of(cls, study: Study) -> ExpectedImages:
        return cls(study.data.limited_train_images, study.data.classes)

    def labelled(self, label_fraction: float) -> int:
        return max(self.classes, math.floor(label_fraction * self.train_images + 1e-6))  # 0.29 x 100 is 28.99...


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and what it takes.

    `parameters` are the encoder's, as the paper's Table 1 counts them (with batch norm's moving statistics).
    `train_flops` is the arithmetic of training: forward and backward passes, a multiply-add being two operations; the
    evaluation afterwards is left out.
    """

    id: str
    spec: TrialSpec
    workers: int
    rows: int
    steps: int
    parameters: int
    train_flops: float


@dataclass(frozen=True)
class Plan:
    """All trials of a study, parents first, beside what a grid without merging would run."""

    study: Study
    cells: int
    naive: Counter[Stage]
    trials: dict[str, PlannedTrial]
    finished: frozenset[str]

    def missing(self) -> dict[str, PlannedTrial]:
        return {id: trial for id, trial in self.trials.items() if id not in self.finished}


def make_plan(study: Study, images: Images, finished: Iterable[str] = ()) -> Plan:
    """Expand, merge and cost a study.

    Raises:
        ValueError: a combination that cannot be run, named with the trial that it belongs to.
    """
    expanded = expand(study)
    trials: dict[str, PlannedTrial] = {}
    like: dict[tuple[object, ...], PlannedTrial] = {}  # trials that differ in seeds take the same
    kinds: dict[str | None, tuple[object, ...]] = {None: ()}
    for id, spec in expanded.specs.items():
        kinds[id] = kind = (spec.architecture, builtins.id(spec.settings), *kinds[spec.parent])
        if kind not in like:
            like[kind] = _planned(id, spec, study.execution, images, trials)
        trials[id] = replace(like[kind], id=id, spec=spec)
    done = frozenset(set(finished) & set(trials))
    return Plan(study, expanded.cells, expanded.naive, trials, done)


def workers_of(execution: Execution, architecture: str) -> int:
    """Workers of a trial: the first matching pattern's, else the default."""
    if isinstance(execution.workers, int):
        return execution.workers
    for pattern, count in execution.workers.items():
        if pattern != "default" and fnmatchcase(architecture, pattern):
            return count
    return execution.workers["default"]


def _planned(
    id: str, spec: TrialSpec, execution: Execution, images: Images, trials: dict[str, PlannedTrial]
) -> PlannedTrial:
    optimization = spec.settings.optimization
    rows = training_rows(spec, images)
    workers = 1 if spec.stage == "linear" else workers_of(execution, spec.architecture)
    batch = optimization.global_batch_size
    check_batch(id, spec, workers, images.train_images)
    try:
        learning_rate_at(0, rows=rows, optimization=optimization)
    except ValueError as error:
        raise ValueError(f"{id}: {error}") from None
    steps = total_steps(rows, optimization.epochs, batch)
    return PlannedTrial(
        id=id,
        spec=spec,
        workers=workers,
        rows=rows,
        steps=steps,
        parameters=encoder_parameters(_architecture(spec.architecture), spec.data.image_size),
        train_flops=train_flops(spec, steps, rows, trials),
    )


def training_rows(spec: TrialSpec, images: Images) -> int:
    """Number of images that one epoch of a trial passes over."""
    settings = spec.settings
    if isinstance(settings, PretrainSettings) or (isinstance(settings, DistillSettings) and settings.images == "all"):
        return images.train_images
    assert settings.label_fraction is not None
    return images.labelled(settings.label_fraction)


@lru_cache
def _architecture(name: str) -> Architecture:
    return parse_architecture(name)


@lru_cache
def forward_flops_of(name: str, image_size: int, classes: int, head_depth: int, head_layers: int) -> float:
    """Operations of one image's forward pass: encoder, projection layers, linear layer (if `classes`)."""
    architecture = _architecture(name)
    whole_head = 0 < head_layers == head_depth
    width = PROJECTION_DIM if whole_head else feature_dim(architecture)
    head = head_flops(architecture, head_depth, head_layers) if head_layers else 0
    return forward_flops(architecture, image_size) + head + 2 * width * classes


def train_flops(spec: TrialSpec, steps: int, rows: int, trials: dict[str, PlannedTrial]) -> float:
    """Operations of a training; a backward pass costs two forward passes, micro-batches another forward pass."""
    settings, size, classes = spec.settings, spec.data.image_size, spec.data.classes
    seen = steps * settings.optimization.global_batch_size
    passes = 3 if micro_batches(spec) == 1 else 4
    if isinstance(settings, PretrainSettings):
        depth, momentum_encoder = settings.head_depth, settings.memory.decay > 0
        return seen * 2 * (passes + momentum_encoder) * forward_flops_of(spec.architecture, size, 0, depth, depth)
    if isinstance(settings, FinetuneSettings):
        return seen * passes * forward_flops_of(spec.architecture, size, classes, *_head_of(spec, trials))
    if isinstance(settings, LinearSettings):
        features = rows * forward_flops_of(spec.architecture, size, 0, 0, 0)
        return features + seen * 3 * 2 * feature_dim(_architecture(spec.architecture)) * classes
    student = seen * passes * forward_flops_of(spec.architecture, size, classes, 0, 0)
    if isinstance(settings, DistillSettings):
        assert spec.parent is not None
        teacher = trials[spec.parent].spec
        return student + seen * forward_flops_of(teacher.architecture, size, classes, *_head_of(teacher, trials))
    return student


def _head_of(spec: TrialSpec, trials: dict[str, PlannedTrial]) -> tuple[int, int]:
    """Depth of the projection head that a classifier was cut from, and how many of its layers it keeps."""
    if not isinstance(spec.settings, FinetuneSettings):
        return 0, 0
    assert spec.parent is not None
    pretrain = trials[spec.parent].spec.settings
    assert isinstance(pretrain, PretrainSettings)
    return pretrain.head_depth, spec.settings.head_layer
