"""Stage `distill`: a student from scratch learns a teacher's predictions (Eq. 2) and, if asked, labels (Eq. 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from datasets.batches import Batch
from datasets.splits import train_ids
from trainables.classifier import Classifier, ModelSpec, count_parameters, evaluate, load_classifier, model_state
from trainables.context import Context
from trainables.loop import DTYPES, Task, autocast, train
from trainables.losses import UNLABELLED, combined_distillation_loss
from trainables.spec import DistillSettings
from trainables.stage import Assignment, Outcome


class Student(nn.Module):
    """A student whose loss compares its logits with a teacher's."""

    def __init__(self, classifier: Classifier, settings: DistillSettings) -> None:
        super().__init__()
        self.classifier = classifier
        self.settings = settings

    def forward(self, images: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (n, 3, S, S), the teacher's logits (n, classes) of them and labels (n,) -> loss and metrics."""
        logits = self.classifier(images)
        loss = combined_distillation_loss(
            logits,
            teacher_logits,
            labels,
            self.settings.temperature,
            self.settings.distillation_weight,
            self.settings.scale_by_temperature_squared,
        )
        agreement = (logits.argmax(1) == teacher_logits.argmax(1)).to(logits.dtype).mean()
        return loss, {"teacher_agreement": agreement.detach()}


def run(assignment: Assignment, context: Context) -> Outcome:
    """Distill the parent into a student of the assignment's architecture.

    The teacher is in inference mode and sees the same augmented images as the student (official notebook). Labels
    outside of the label fraction are hidden from the loss.
    """
    settings = assignment.settings
    assert isinstance(settings, DistillSettings) and assignment.parent is not None
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    teacher = load_classifier(assignment.parent, context, dtype)
    spec = ModelSpec(assignment.architecture.name, assignment.image_size, assignment.classes, 0, 0)
    classifier = Classifier(spec)
    module = Student(classifier, settings).to(context.device, dtype)
    one_view = assignment.views(1, settings.augmentation, optimization, context)
    labelled = 0 if settings.label_fraction is None else assignment.labelled_rows(settings.label_fraction)
    known = torch.from_numpy(np.sort(train_ids(assignment.shards, assignment.manifest, labelled)))

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        views, labels = one_view(batch)
        hidden = torch.searchsorted(known, batch.ids) == torch.searchsorted(known, batch.ids, right=True)
        labels = labels.masked_fill(hidden.to(context.device), UNLABELLED)
        with torch.no_grad(), autocast(optimization, context.device):
            teacher_logits = teacher(views[0])
        return views[0], teacher_logits, labels

    rows = labelled if settings.images == "labelled" else assignment.manifest.train_images
    stream = assignment.stream(rows, optimization, context)
    progress = train(Task(module, inputs, stream, rows, optimization, adapt_classifier=True), context)
    metrics = evaluate(classifier, assignment.shards, assignment.image_size, context, dtype)
    context.save_model(model_state(classifier))
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(classifier))
