"""Measures what a trial does beside its steps: it reads and decodes its images, and is evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import assert_never

from datasets.batches import Batch
from datasets.resident import RESIDENT_BYTES, decoded_bytes
from datasets.stream import eval_batches
from study.assigned import assignment_of
from study.images import ShardedImages
from study.plan import PlannedTrial
from trainables.context import Context
from trainables.evaluation import evaluating
from trainables.knn import BANK_ROWS
from trainables.linear import build
from trainables.loop import DTYPES
from trainables.spec import (
    DistillSettings,
    FinetuneSettings,
    LinearSettings,
    PretrainSettings,
    Settings,
    SupervisedSettings,
)
from trainables.stage import CANVAS, Assignment

MOST_IMAGES, BATCH = 256, 64
"""Images that are read and images that are evaluated, in batches; the others are taken to need as long each."""

SECONDS = 3.0
"""Seconds after which no further batch is begun."""


def seconds_beside_steps(trial: PlannedTrial, images: ShardedImages, context: Context) -> float:
    """Device-seconds in which a trial reads and decodes the images that it trains on, and evaluates others.

    Images of sets that fit in memory are read once, others in every epoch. On a GPU they are decoded while it trains;
    what it waits for nevertheless is left out.
    """
    spec, manifest = trial.spec, images.manifest
    assignment = assignment_of(spec, images.shards, manifest)
    encoder, _ = build(assignment.architecture, assignment.image_size, assignment.classes)
    dtype = DTYPES[spec.settings.optimization.precision]
    context.place(encoder, dtype)

    def evaluate(batch: Batch) -> None:
        encoder(assignment.eval_view(batch, context, dtype)).cpu()

    with evaluating(encoder):
        reading = _seconds_an_image(assignment, lambda batch: None)
        evaluating_one = _seconds_an_image(assignment, evaluate)
    evaluated = len(assignment.evaluated[1])
    if compares_neighbors(spec.settings) and spec.dev is None:  # which encodes the test images again
        evaluated += manifest.test_images + min(BANK_ROWS, manifest.labelled_images)
    return trial.rows * _times_read(trial, assignment, context) * reading + evaluated * evaluating_one


def compares_neighbors(settings: Settings) -> bool:
    """Whether a stage classifies the test images by their nearest neighbors, too, at its end."""
    if isinstance(settings, PretrainSettings):
        return True
    if isinstance(settings, LinearSettings | FinetuneSettings | SupervisedSettings | DistillSettings):
        return False
    assert_never(settings)


def _times_read(trial: PlannedTrial, assignment: Assignment, context: Context) -> float:
    """How often each training image is decoded while nothing else is done."""
    if decoded_bytes(assignment.manifest, trial.rows, CANVAS * assignment.image_size) <= RESIDENT_BYTES:
        return 1.0
    seen = trial.steps * trial.spec.settings.optimization.global_batch_size
    return 0.0 if context.device.type == "cuda" else seen / trial.rows


def _seconds_an_image(assignment: Assignment, use: Callable[[Batch], None]) -> float:
    """Seconds to read and decode an image of the shards and to use it, as if none was in memory."""
    began, count = time.monotonic(), 0
    batches = eval_batches(
        assignment.shards,
        split="train",
        rows=min(MOST_IMAGES, assignment.manifest.train_images),
        per_worker_batch_size=BATCH,
        max_side=CANVAS * assignment.image_size,
        resident_bytes=0,
    )
    for batch in batches:
        use(batch)
        count += len(batch.ids)
        if time.monotonic() - began > SECONDS:
            break
    return (time.monotonic() - began) / count
