"""A stage at work on images that nobody took: its own code, on noise and from parents of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import torch

from datasets.batches import Batch
from datasets.schema import Manifest
from datasets.windows import Share
from study.assigned import assignment_of
from study.plan import Plan
from study.trial import TrialSpec, head_of
from trainables.architecture import parse_architecture
from trainables.checkpoint import save_state
from trainables.classifier import Classifier, ModelSpec, model_state
from trainables.context import Context
from trainables.evaluation import evaluating
from trainables.features import Features
from trainables.linear import FeatureStream, task_of
from trainables.linear import build as build_linear
from trainables.loop import DTYPES, train
from trainables.pretrain import Pretraining
from trainables.spec import (
    DistillSettings,
    FinetuneSettings,
    LinearSettings,
    Optimization,
    PretrainSettings,
    SupervisedSettings,
)
from trainables.stage import Assignment
from trainables.stages import RUN

MOST_FEATURES = 4096  # held for linear steps, which draw from them


@dataclass(frozen=True)
class NoiseStream:
    """Endless batches of decoded images, as large as the network takes them: the same batch again and again."""

    rows: int
    image_size: int
    classes: int

    def iterate(self, first_step: int) -> Iterator[Batch]:
        batch = noise(self.rows, self.image_size, self.classes)
        while True:
            yield batch


class NoiseAssignment(Assignment):
    """An assignment without shards: its images are noise, and all of them are labelled."""

    def labelled_rows(self, label_fraction: float) -> int:
        return self.manifest.labelled_images

    def stream(self, rows: int, optimization: Optimization, context: Context) -> NoiseStream:  # type: ignore[override]
        return NoiseStream(optimization.global_batch_size, self.image_size, self.classes)


def run_steps(spec: TrialSpec, rows: int, plan: Plan, context: Context) -> None:
    """Run the stage of `spec`, whose epochs have `rows` rows, until `context.report`, called after every step, raises.

    `plan` holds the trial's ancestors; models of their shape and of random weights are written to the context's folder.
    """
    parent = None if spec.parent is None else _random_model(plan.trials[spec.parent].spec, plan, Path(context.folder))
    RUN[spec.stage](_assignment(spec, rows, parent), context)  # noise has no shards whose labels could be compared


def encode(spec: TrialSpec, rows: int, context: Context) -> None:
    """Encode batches of `rows` images in inference mode, as linear evaluation does once, until `context.report`,
    called after every batch, raises."""
    dtype = DTYPES[spec.settings.optimization.precision]
    encoder, _ = build_linear(parse_architecture(spec.architecture), spec.data.image_size, spec.data.classes)
    context.place(encoder, dtype)
    assignment, batch = _assignment(spec, rows, None), noise(rows, spec.data.image_size, spec.data.classes)
    with evaluating(encoder):
        while True:
            encoder(assignment.eval_view(batch, context, dtype)).cpu()
            context.report(0.0)


def run_linear_steps(spec: TrialSpec, rows: int, context: Context) -> None:
    """Train a linear classifier on features that nothing made, until `context.report` raises."""
    optimization = spec.settings.optimization
    dtype = DTYPES[optimization.precision]
    encoder, classifier = build_linear(parse_architecture(spec.architecture), spec.data.image_size, spec.data.classes)
    context.place(classifier, dtype)
    held = min(rows, MOST_FEATURES)
    features = Features(
        torch.arange(held),
        torch.rand(held, encoder.feature_dim, dtype=dtype),
        torch.randint(spec.data.classes, (held,)),
    )
    stream = FeatureStream(features, Share(held, 0, 0, 1), optimization.global_batch_size)
    train(task_of(classifier, stream, held, optimization, context, lambda done: {}), context)


def noise(rows: int, image_size: int, classes: int) -> Batch:
    """A batch of random pixels and labels."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        ids=torch.arange(rows),
        epochs=torch.zeros(rows, dtype=torch.int64),
        images=torch.randint(256, (rows, 3, image_size, image_size), dtype=torch.uint8, generator=generator),
        sizes=torch.full((rows, 2), image_size),
        labels=torch.randint(classes, (rows,), generator=generator),
    )


def _assignment(spec: TrialSpec, rows: int, parent: str | None) -> NoiseAssignment:
    size = spec.data.image_size
    manifest = Manifest.model_construct(  # of images that are nowhere, which no file could say
        format_version=1,
        classes=tuple(map(str, range(spec.data.classes))),
        label_seed=spec.data.label_seed,
        train_limit=None,
        test_limit=None,
        train_images=rows,
        labelled_images=rows,
        test_images=0,
        class_counts=(),
        test_class_counts=(),
        image_bytes=0,
        min_height=size,
        max_height=size,
        min_width=size,
        max_width=size,
        mean_pixels=size**2,
        row_group_rows=rows,
        files=(),
        source="noise",
        source_signature="",
        fingerprint="noise",
    )
    of_all_rows = spec.model_copy(update={"dev": None})  # `rows` are without those that are held out
    return NoiseAssignment(**vars(assignment_of(of_all_rows, "noise", manifest, parent)))


def _random_model(spec: TrialSpec, plan: Plan, folder: Path) -> str:
    """Write a model of the shape that a trial would leave behind; its path."""
    size, classes = spec.data.image_size, spec.data.classes
    path = folder / f"{spec.trial_id()}.pt"
    if path.exists():
        return str(path)
    if isinstance(spec.settings, PretrainSettings):
        plain = PretrainSettings(optimization=spec.settings.optimization, head_depth=spec.settings.head_depth)
        module = Pretraining(parse_architecture(spec.architecture), size, classes, plain)
        save_state(str(path), {"head_depth": plain.head_depth, "module": module.state_dict()})
        return str(path)
    assert not isinstance(spec.settings, LinearSettings), "nothing builds on a linear classifier"
    if isinstance(spec.settings, FinetuneSettings | SupervisedSettings | DistillSettings):
        depth, layers = head_of(spec, lambda id: plan.trials[id].spec)
        save_state(str(path), model_state(Classifier(ModelSpec(spec.architecture, size, classes, depth, layers))))
        return str(path)
    assert_never(spec.settings)
