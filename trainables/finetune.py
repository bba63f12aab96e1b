"""Stage `finetune`: encoder and the first layers of the projection head, trained further on the labelled images."""

from __future__ import annotations

from torch import Tensor, nn

from datasets.batches import Batch
from trainables.checkpoint import State
from trainables.classifier import Classifier, ModelSpec, count_parameters, evaluate, load_model, model_state
from trainables.context import Context
from trainables.loop import DTYPES, Task, train
from trainables.losses import classification_loss
from trainables.spec import FinetuneSettings, SupervisedSettings
from trainables.stage import Assignment, Outcome


class Supervised(nn.Module):
    """A classifier with the cross-entropy of its labelled images as loss."""

    def __init__(self, classifier: Classifier, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (n, 3, S, S) and labels (n,) -> loss and metrics."""
        return classification_loss(self.classifier(images), labels, self.label_smoothing), {}


def run(assignment: Assignment, context: Context) -> Outcome:
    """Fine-tune from a head layer of the pretrained parent on the labelled images (section 2, "Fine-tuning").

    Layer 0 is the encoder output; from layer k on, the first k layers of the projection head become part of the
    encoder and are trained with it. The new linear layer starts at zero, as in the official commands.
    """
    settings = assignment.settings
    assert isinstance(settings, FinetuneSettings) and assignment.parent is not None
    parent = load_model(assignment.parent)
    classifier = Classifier(
        ModelSpec(
            assignment.architecture.name,
            assignment.image_size,
            assignment.classes,
            parent["head_depth"],
            settings.head_layer,
        ),
        zero_init=True,
    )
    load_pretrained(classifier, parent)
    return train_supervised(assignment, settings, classifier, 0.0, context)


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
    """Train a classifier on the labelled images of a label fraction and evaluate it on the test split."""
    optimization = settings.optimization
    dtype = DTYPES[optimization.precision]
    module = Supervised(classifier, label_smoothing).to(context.device, dtype)
    one_view = assignment.views(1, settings.augmentation, optimization, context)

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        views, labels = one_view(batch)
        return views[0], labels

    rows = assignment.labelled_rows(settings.label_fraction)
    stream = assignment.stream(rows, optimization, context)
    progress = train(Task(module, inputs, stream, rows, optimization), context)
    metrics = evaluate(classifier, assignment.shards, assignment.image_size, context, dtype)
    context.save_model(model_state(classifier))
    return Outcome(metrics, progress, settings.label_fraction, count_parameters(classifier))
