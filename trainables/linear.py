"""Stage `linear`: a linear classifier on the frozen encoder's features, which are computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.batches import Batch
from datasets.stream import draw, eval_batches
from datasets.windows import Share
from trainables.classifier import CANVAS, EVAL_BATCH_SIZE, count_parameters, evaluate, evaluating, load_model
from trainables.context import Context
from trainables.heads import LinearClassifier
from trainables.loop import DTYPES, Task, train
from trainables.losses import classification_loss
from trainables.resnet import Encoder
from trainables.spec import LinearSettings
from trainables.stage import Assignment, Outcome
from trainables.views import eval_view


@dataclass(frozen=True)
class FeatureStream:
    """This rank's batches of features in the order in which `TrainStream` would give the images."""

    features: Batch  # all labelled rows in order, their features (n, d) in place of images
    share: Share
    global_batch_size: int

    def iterate(self, first_step: int) -> Iterator[Batch]:
        for step in itertools.count(first_step):
            positions, epochs = draw(self.share, self.global_batch_size, step)
            index = torch.from_numpy(positions)
            rows = self.features
            yield Batch(
                rows.ids[index], torch.from_numpy(epochs), rows.images[index], rows.sizes[index], rows.labels[index]
            )


class Linear(nn.Module):
    """A linear classifier with the cross-entropy of its labelled features as loss."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classifier = LinearClassifier(features, classes)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (n, d) and labels (n,) -> loss and metrics."""
        return classification_loss(self.classifier(features), labels), {}


def run(assignment: Assignment, context: Context) -> Outcome:
    """Train a linear layer on the encoder output of the pretrained parent ("linear evaluation", section 3.2).

    The encoder is in inference mode and sees each labelled image once, as in evaluation, where the official code crops
    and flips at random in every epoch: a far cheaper protocol. One worker computes all features and keeps them in
    memory.
    """
    settings = assignment.settings
    assert isinstance(settings, LinearSettings) and assignment.parent is not None
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    encoder = Encoder(assignment.architecture, assignment.image_size)
    parent = load_model(assignment.parent)["module"]
    prefix = "encoder."
    encoder.load_state_dict({name.removeprefix(prefix): parent[name] for name in parent if name.startswith(prefix)})
    encoder.to(context.device, dtype).requires_grad_(False)
    rows = assignment.labelled_rows(settings.label_fraction)
    features = encode(encoder, assignment, rows, context, dtype)
    share = Share(rows, assignment.seed, context.rank, context.world_size)
    stream = FeatureStream(features, share, optimization.global_batch_size)
    module = Linear(encoder.feature_dim, assignment.classes).to(context.device, dtype)

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        return batch.images.to(context.device), batch.labels.to(context.device)

    progress = train(Task(module, inputs, stream, rows, optimization), context)
    model = nn.Sequential(encoder, module.classifier)
    metrics = evaluate(model, assignment.shards, assignment.image_size, context, dtype)
    context.save_model({"module": module.state_dict()})
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(module))


def encode(encoder: Encoder, assignment: Assignment, rows: int, context: Context, dtype: torch.dtype) -> Batch:
    """Features (n, d) of the first `rows` training images, on the CPU, in place of the images of one big batch."""
    features = torch.empty(rows, encoder.feature_dim, dtype=dtype)
    ids, labels = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
    filled = 0
    with evaluating(encoder):
        for batch in eval_batches(
            assignment.shards,
            split="train",
            rows=rows,
            per_worker_batch_size=EVAL_BATCH_SIZE,
            max_side=CANVAS * assignment.image_size,
        ):
            part = slice(filled, filled + len(batch.ids))
            images = eval_view(batch.images.to(context.device), batch.sizes, assignment.image_size, dtype)
            features[part], ids[part], labels[part] = encoder(images).cpu(), batch.ids, batch.labels
            filled = part.stop
            context.report(0.0)
    assert filled == rows, "evaluation reads every row once"
    return Batch(
        ids=ids, epochs=torch.zeros_like(ids), images=features, sizes=torch.ones(rows, 2).long(), labels=labels
    )
