"""Stage `linear`: a linear classifier on the frozen encoder's features, which are computed once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.batches import Batch
from datasets.stream import draw
from datasets.windows import Share
from trainables.checkpoint import State
from trainables.classifier import count_parameters, load_model
from trainables.context import Context
from trainables.evaluation import evaluate
from trainables.features import Features, encode_split, gather_features
from trainables.heads import LinearClassifier
from trainables.loop import DTYPES, Outputs, Task, train
from trainables.losses import classification_loss
from trainables.networks.architecture import Architecture
from trainables.networks.encoder import Encoder
from trainables.protocol import unchanged
from trainables.spec import LinearSettings, Optimization
from trainables.stage import Assignment, Outcome


@dataclass(frozen=True)
class FeatureStream:
    """This rank's batches of features in the order in which `TrainStream` gives images that fit into memory."""

    known: Features  # of all labelled rows in order
    share: Share
    global_batch_size: int

    def iterate(self, first_step: int) -> Iterator[Batch]:
        for step in itertools.count(first_step):
            positions, epochs = draw(self.share, self.global_batch_size, step)
            index = torch.from_numpy(positions)
            features = self.known.features[index]
            sizes = torch.ones(len(index), 2, dtype=torch.int64)
            yield Batch(self.known.ids[index], torch.from_numpy(epochs), features, sizes, self.known.labels[index])


def build(architecture: Architecture, image_size: int, classes: int) -> tuple[Encoder, LinearClassifier]:
    """The encoder, which stays as it is, and the linear classifier, which is trained from zero (official commands)."""
    encoder = architecture.build(image_size)
    encoder.eval().requires_grad_(False)
    return encoder, LinearClassifier(encoder.feature_dim, classes, zero_init=True)


def run(assignment: Assignment, context: Context) -> Outcome:
    """Train a linear layer on the encoder output of the pretrained parent ("linear evaluation", section 3.2).

    The encoder is in inference mode and sees each labelled image once, as in evaluation, where the official code crops
    and flips at random in every epoch: a far cheaper protocol. Every worker keeps all
    features in memory.

    Raises:
        ProtocolError: the encoder did not stay as it was.
    """
    settings = assignment.settings
    assert isinstance(settings, LinearSettings) and assignment.parent is not None
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    encoder, classifier = build(assignment.architecture, assignment.image_size, assignment.classes)
    load_encoder(encoder, load_model(assignment.parent, assignment.parent_sha256))
    context.place(encoder, dtype)
    context.place(classifier, dtype)
    rows = assignment.labelled_rows(settings.label_fraction)
    with unchanged("the frozen encoder", encoder.state_dict):
        known = gather_features(
            encode_split(encoder, assignment, "train", rows, context, dtype, 0.0), rows, context.device
        )
        trained = assignment.trained_rows(rows)
        share = Share(trained, assignment.seed, context.rank, context.world_size, assignment.held_out)
        stream = FeatureStream(known, share, optimization.global_batch_size)
        whole = nn.Sequential(encoder, classifier)
        task = task_of(
            classifier,
            stream,
            trained,
            optimization,
            context,
            lambda done: evaluate(whole, assignment, context, dtype, done),
        )
        progress = train(task, context)
        metrics = task.evaluate(1.0)
    context.save_model({"module": classifier.state_dict()})
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(classifier))


def task_of(
    classifier: LinearClassifier,
    stream: FeatureStream,
    rows: int,
    optimization: Optimization,
    context: Context,
    evaluate: Callable[[float], dict[str, float]],
) -> Task:
    """The training of a linear classifier on features, of which one epoch passes over `rows`."""

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        return batch.images.to(context.device), batch.labels.to(context.device)

    def loss(outputs: Outputs, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return classification_loss(outputs[0], labels), {}

    return Task(classifier, inputs, loss, stream, rows, optimization, evaluate)


def load_encoder(encoder: Encoder, parent: State) -> None:
    """Copy a pretrained encoder."""
    prefix, module = "encoder.", parent["module"]
    encoder.load_state_dict({name.removeprefix(prefix): module[name] for name in module if name.startswith(prefix)})
