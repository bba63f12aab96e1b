"""Stage `pretrain`: SimCLRv2 on all images, labels unused but for an online linear probe behind a stop-gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datasets.batches import Batch
from trainables.architecture import Architecture
from trainables.classifier import count_parameters, evaluate
from trainables.context import Context
from trainables.heads import LinearClassifier, ProjectionHead
from trainables.loop import DTYPES, Task, train
from trainables.losses import classification_loss, nt_xent
from trainables.resnet import Encoder
from trainables.spec import PretrainSettings
from trainables.stage import Assignment, Outcome


class Pretraining(nn.Module):
    """Encoder f, projection head g and a linear probe on the features.

    Both views go through the network in one pass, so that batch norm sees 2n images, as in the official code. The probe
    learns from the same views, but its gradient stops at the features: it cannot change the encoder.
    """

    def __init__(self, architecture: Architecture, image_size: int, classes: int, settings: PretrainSettings) -> None:
        super().__init__()
        self.encoder = Encoder(architecture, image_size)
        self.head = ProjectionHead(self.encoder.feature_dim, settings.head_depth)
        self.probe = LinearClassifier(self.encoder.feature_dim, classes)
        self.temperature = settings.temperature

    def forward(self, views: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Views (2n, 3, S, S), all first views before all second ones, and labels (n,) -> loss and metrics."""
        features = self.encoder(views)
        z1, z2 = self.head(features).chunk(2)
        contrastive, accuracy = nt_xent(z1, z2, self.temperature)
        probe = classification_loss(self.probe(features.detach()), labels.repeat(2))
        metrics = {"contrastive_loss": contrastive, "contrastive_accuracy": accuracy, "probe_loss": probe}
        return contrastive + probe, {name: value.detach() for name, value in metrics.items()}


def run(assignment: Assignment, context: Context) -> Outcome:
    """Pretrain on every training image; `top1` and `top5` of the record are the online probe's on the test split.

    `contrastive_accuracy` is the mean over the last steps of training that the history's last row covers.
    """
    settings = assignment.settings
    assert isinstance(settings, PretrainSettings)
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    module = Pretraining(assignment.architecture, assignment.image_size, assignment.classes, settings)
    module.to(context.device, dtype)
    two_views = assignment.views(2, settings.augmentation, optimization, context)

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        views, labels = two_views(batch)
        return torch.cat(views), labels

    rows = assignment.manifest.train_images
    stream = assignment.stream(rows, optimization, context)
    progress = train(Task(module, inputs, stream, rows, optimization), context)
    probe = nn.Sequential(module.encoder, module.probe)
    metrics = evaluate(probe, assignment.shards, assignment.image_size, context, dtype)
    metrics["contrastive_accuracy"] = progress.history[-1]["contrastive_accuracy"]
    context.save_model({"head_depth": settings.head_depth, "module": module.state_dict()})
    return Outcome(metrics, progress, 1.0 if assignment.manifest.labelled_images else None, count_parameters(module))
