"""Stage `finetune`: encoder and the first layers of the projection head, trained further on the labelled images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, assert_never

from torch import Tensor

from datasets.batches import Batch
from trainables.checkpoint import State
from trainables.classifier import Classifier, ModelSpec, count_parameters, load_model, model_state
from trainables.context import Context
from trainables.evaluation import evaluate
from trainables.loop import DTYPES, Outputs, Task, train
from trainables.losses import classification_loss
from trainables.networks.architecture import Architecture
from trainables.norm import set_moving_variance
from trainables.protocol import unchanged
from trainables.spec import FinetuneSettings, SupervisedSettings
from trainables.stage import Assignment, Outcome


def build(
    architecture: Architecture, image_size: int, classes: int, head_depth: int, settings: FinetuneSettings
) -> Classifier:
    """The classifier that fine-tuning trains, before the pretrained weights are copied into it.

    Its linear layer starts at zero, as in the official commands.
    """
    spec = ModelSpec(architecture.name, image_size, classes, head_depth, settings.head_layer)
    classifier = Classifier(spec, zero_init=True)
    classifier.head.requires_grad_(trains_head(settings))
    set_moving_variance(classifier, settings.moving_variance)
    return classifier


def run(assignment: Assignment, context: Context) -> Outcome:
    """Fine-tune from a head layer of the pretrained parent on the labelled images (section 2, "Fine-tuning").

    Layer 0 is the encoder output; from layer k on, the first k layers of the projection head become part of the
    encoder and are trained with it, or keep their weights (`kept_head`).

    Raises:
        ProtocolError: a head that was to keep its weights did not.
    """
    settings = assignment.settings
    assert isinstance(settings, FinetuneSettings) and assignment.parent is not None
    parent = load_model(assignment.parent, assignment.parent_sha256)
    classifier = build(
        assignment.architecture, assignment.image_size, assignment.classes, parent["head_depth"], settings
    )
    load_pretrained(classifier, parent)
    context.place(classifier, DTYPES[settings.optimization.precision])

    def kept() -> dict[str, Tensor]:
        return dict(classifier.head.named_parameters())  # without moving statistics, which go on

    watched: AbstractContextManager[Any] = nullcontext() if trains_head(settings) else unchanged("the kept head", kept)
    with watched:
        return train_supervised(assignment, settings, classifier, 0.0, context)


def trains_head(settings: FinetuneSettings) -> bool:
    """Whether the layers of the projection head that are kept are trained."""
    match settings.kept_head:
        case "trained":
            return True
        case "frozen":
            return False
        case _:
            assert_never(settings.kept_head)


def load_pretrained(classifier: Classifier, parent: State) -> None:
    """Copy a pretrained encoder, and the head layers that the classifier keeps; its linear layer stays as it is."""
    kept = classifier.state_dict()
    for name in kept:
        if not name.startswith("classifier."):
            kept[name] = parent["module"][name]
    classifier.load_state_dict(kept)


def train_supervised(
    assignment: Assignment,
    settings: FinetuneSettings | SupervisedSettings,
    classifier: Classifier,
    label_smoothing: float,
    context: Context,
) -> Outcome:
    """Train a classifier on the labelled images of a label fraction and evaluate it."""
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    context.place(classifier, dtype)
    one_view = assignment.views(1, settings.augmentation, optimization, context)

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        views, labels = one_view(batch)
        return views[0], labels

    def loss(outputs: Outputs, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return classification_loss(outputs[0], labels, label_smoothing), {}

    rows = assignment.labelled_rows(settings.label_fraction)
    task = Task(
        classifier,
        inputs,
        loss,
        assignment.stream(rows, optimization, context),
        assignment.trained_rows(rows),
        optimization,
        micro_batches=settings.micro_batches,
        evaluate=lambda done: evaluate(classifier, assignment, context, dtype, done),
    )
    progress = train(task, context)
    metrics = task.evaluate(1.0)
    context.save_model(model_state(classifier))
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(classifier))
