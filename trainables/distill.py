"""Stage `distill`: a student from scratch learns a teacher's predictions (Eq. 2) and, if asked, labels (Eq. 3)."""

from __future__ import annotations

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.splits import row_ids
from trainables.classifier import count_parameters, load_classifier, model_state
from trainables.context import Context
from trainables.evaluation import evaluate
from trainables.loop import DTYPES, Outputs, Task, autocast, train
from trainables.losses import UNLABELLED, combined_distillation_loss
from trainables.micro_batches import together
from trainables.protocol import unchanged
from trainables.spec import DistillSettings
from trainables.stage import Assignment, Outcome
from trainables.supervised import build


def run(assignment: Assignment, context: Context) -> Outcome:
    """Distill the parent into a student of the assignment's architecture.

    The teacher is in inference mode and sees the same augmented images as the student (official notebook). Labels
    outside of the label fraction are hidden from the loss.

    Raises:
        ProtocolError: the teacher did not stay as it was.
        ValueError: the teacher's file cannot be read, or it was made for other images or classes.
    """
    settings = assignment.settings
    assert isinstance(settings, DistillSettings) and assignment.parent is not None
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    size, classes = assignment.image_size, assignment.classes
    teacher = load_classifier(
        assignment.parent, assignment.parent_sha256, context, dtype, image_size=size, classes=classes
    )
    student = build(assignment.architecture, size, classes, settings)
    context.place(student, dtype)
    one_view = assignment.views(1, settings.augmentation, optimization, context)
    parts = settings.micro_batches  # the teacher may be the larger network
    labelled = 0 if settings.label_fraction is None else assignment.labelled_rows(settings.label_fraction)
    known = torch.from_numpy(np.sort(row_ids(assignment.shards, assignment.manifest, "train", labelled)))

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        views, labels = one_view(batch)
        hidden = torch.searchsorted(known, batch.ids) == torch.searchsorted(known, batch.ids, right=True)
        labels = labels.masked_fill(hidden.to(context.device), UNLABELLED)
        with torch.no_grad(), autocast(optimization, context.device):
            logits = [teacher(views[0][part::parts]) for part in range(parts)]
            teacher_logits = together(logits)
        return views[0], teacher_logits, labels

    match settings.images:
        case "labelled":
            rows = labelled
        case "all":
            rows = assignment.manifest.train_images
        case _:
            assert_never(settings.images)
    task = Task(
        student,
        inputs,
        lambda outputs, teacher_logits, labels: loss(outputs, teacher_logits, labels, settings),
        assignment.stream(rows, optimization, context),
        assignment.trained_rows(rows),
        optimization,
        micro_batches=settings.micro_batches,
        evaluate=lambda done: evaluate(student, assignment, context, dtype, done),
    )
    with unchanged("the teacher", teacher.state_dict):
        progress = train(task, context)
    metrics = task.evaluate(1.0)
    context.save_model(model_state(student))
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(student))


def loss(
    outputs: Outputs, teacher_logits: Tensor, labels: Tensor, settings: DistillSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of the student's logits (n, classes), the teacher's, and labels (n,), -1 for hidden ones."""
    (logits,) = outputs
    value = combined_distillation_loss(
        logits,
        teacher_logits,
        labels,
        settings.temperature,
        settings.distillation_weight,
        settings.scale_by_temperature_squared,
    )
    agreement = (logits.argmax(1) == teacher_logits.argmax(1)).to(logits.dtype).mean()
    return value, {"teacher_agreement": agreement.detach()}
