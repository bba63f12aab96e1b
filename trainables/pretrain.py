"""Stage `pretrain`: SimCLRv2 on all images, labels unused but for probes that cannot change the encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from datasets.batches import Batch
from trainables.classifier import count_parameters
from trainables.collapse import CollapsedError, collapsed, effective_rank
from trainables.collectives import sum_over_ranks
from trainables.context import Context
from trainables.evaluation import evaluate
from trainables.features import encode_split, gather_features
from trainables.heads import LinearClassifier, ProjectionHead
from trainables.history import HistoryRow
from trainables.knn import BANK_ROWS, knn_counts
from trainables.loop import DTYPES, Outputs, Task, autocast, train
from trainables.losses import classification_loss, nt_xent
from trainables.memory import ContrastiveMemory
from trainables.networks.architecture import Architecture
from trainables.networks.encoder import Encoder
from trainables.norm import set_moving_variance
from trainables.schedule import total_steps, warmup_steps
from trainables.spec import PretrainSettings
from trainables.stage import Assignment, Outcome


class Pretraining(nn.Module):
    """Encoder f, projection head g, a memory of negatives, and a linear probe on the features.

    Both views go through the network in one pass, so that batch norm sees 2n images, as in the official code. The probe
    learns from the same views, but its gradient stops at the features: it cannot change the encoder.
    """

    def __init__(self, architecture: Architecture, image_size: int, classes: int, settings: PretrainSettings) -> None:
        super().__init__()
        self.encoder = architecture.build(image_size)
        self.head = ProjectionHead(self.encoder.feature_dim, settings.head_depth)
        self.probe = LinearClassifier(self.encoder.feature_dim, classes)
        self.memory = ContrastiveMemory(settings.memory, self.encoder, self.head)
        self.temperature = settings.temperature
        set_moving_variance(self, settings.moving_variance)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views (2n, 3, S, S), all first views before all second ones -> projections, probe's logits, features."""
        features = self.encoder(views)
        return self.head(features), self.probe(features.detach()), features.detach()

    def loss(self, outputs: Outputs, labels: Tensor, keys: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of outputs for 2n views, labels (n,) and the momentum encoder's keys (2, n, d), if any."""
        projections, logits, _ = outputs
        z1, z2 = projections.chunk(2)
        contrastive, accuracy = nt_xent(
            z1, z2, self.temperature, keys=self.memory.batch_keys(keys), queue=self.memory.negatives()
        )
        self.memory.enqueue(torch.stack([z1, z2]) if keys is None else keys)
        probe = classification_loss(logits, labels.repeat(2))
        metrics = {"contrastive_loss": contrastive, "contrastive_accuracy": accuracy, "probe_loss": probe}
        return contrastive + probe, {name: value.detach() for name, value in metrics.items()}


def run(assignment: Assignment, context: Context) -> Outcome:
    """Pretrain on every training image; `top1` and `top5` of the record are the online probe's on the test split.

    `knn_top1` is a nearest-neighbour classifier's, which a trial with a dev split leaves out. `contrastive_accuracy` is
    the mean over the last steps of training that the history's last row covers; `effective_rank` and `projection_rank`
    are those of features and projections of the last batch.

    Raises:
        CollapsedError: features or projections lost all but a few directions.
    """
    settings = assignment.settings
    assert isinstance(settings, PretrainSettings)
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    module = Pretraining(assignment.architecture, assignment.image_size, assignment.classes, settings)
    context.place(module, dtype)
    two_views = assignment.views(2, settings.augmentation, optimization, context)
    rows = assignment.trained_rows(assignment.manifest.train_images)
    warmup = warmup_steps(rows, optimization.warmup_epochs, optimization.global_batch_size)
    last = total_steps(rows, optimization.epochs, optimization.global_batch_size)

    def inputs(batch: Batch) -> tuple[Any, ...]:
        first_and_second, labels = two_views(batch)
        views = torch.cat(first_and_second)
        module.memory.follow(module.encoder, module.head)
        with autocast(optimization, context.device):
            keys = module.memory.keys(views, settings.micro_batches)
        return views, labels, keys

    probe = nn.Sequential(module.encoder, module.probe)
    task = Task(
        module,
        inputs,
        module.loss,
        assignment.stream(assignment.manifest.train_images, optimization, context),
        rows,
        optimization,
        micro_batches=settings.micro_batches,
        watch=lambda outputs, history: watch(outputs, history, context, warmup, last),
        evaluate=lambda done: evaluate(probe, assignment, context, dtype, done),
    )
    progress = train(task, context)
    metrics = task.evaluate(1.0)
    if assignment.manifest.labelled_images and assignment.dev is None:
        metrics["knn_top1"] = knn_top1(module.encoder, assignment, context, dtype)
    for name in ("contrastive_accuracy", "effective_rank", "projection_rank"):
        metrics[name] = progress.history[-1][name]
    state = {name: value for name, value in module.state_dict().items() if not name.startswith("memory.")}
    context.save_model({"head_depth": settings.head_depth, "module": state})
    return Outcome(metrics, progress, 1.0 if assignment.manifest.labelled_images else None, count_parameters(module))


def watch(outputs: Outputs, history: list[HistoryRow], context: Context, warmup: int, last: int) -> None:
    """Note the effective ranks of features and projections in the history's last row; `warmup` and `last` are the last
    steps of warmup and of all.

    Raises:
        CollapsedError: one of them lost all but a few directions.
    """
    projections, _, features = outputs
    for name, what, values in (
        ("effective_rank", "features", features),
        ("projection_rank", "projections", projections),
    ):
        history[-1][name] = effective_rank(values)
        if collapsed(history, name, context.min_effective_rank, warmup, last):
            raise CollapsedError(
                f"{context.trial}: the effective rank of the {what} is {history[-1][name]:.2f} at step "
                f"{history[-1]['step']:.0f}, below min_effective_rank {context.min_effective_rank:g}: they have "
                "collapsed and no longer tell images apart; lower learning_rate, lengthen warmup_epochs, look at "
                "the images, or set execution.min_effective_rank to 0 to go on"
            )


def knn_top1(encoder: Encoder, assignment: Assignment, context: Context, dtype: torch.dtype) -> float:
    """Share of the test images that their nearest labelled training images classify rightly, by their features."""
    manifest = assignment.manifest
    rows = min(BANK_ROWS, manifest.labelled_images)
    bank = gather_features(encode_split(encoder, assignment, "train", rows, context, dtype, 1.0), rows, context.device)
    queries = encode_split(encoder, assignment, "test", manifest.test_images, context, dtype, 1.0)
    bank_features, bank_labels = bank.features.to(context.device), bank.labels.to(context.device)
    features, labels = queries.features.to(context.device), queries.labels.to(context.device)
    counts = knn_counts(features, labels, bank_features, bank_labels, assignment.classes)
    right, _, images = sum_over_ranks(counts).tolist()
    return float(right / images)
