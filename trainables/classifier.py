"""The classifier that fine-tuning, the supervised baseline and distillation train and evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.stream import eval_batches
from trainables.architecture import PROJECTION_DIM, parse_architecture
from trainables.checkpoint import State, load_state
from trainables.context import Context
from trainables.heads import LinearClassifier, ProjectionHead
from trainables.loop import NonFiniteLossError
from trainables.metrics import reduce_counts, topk_counts
from trainables.resnet import Encoder
from trainables.views import eval_view

CANVAS = 4
"""Longer sides of images are decoded to at most this many times the training size, which bounds a batch's memory."""

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class ModelSpec:
    """What must be known to build a saved model again; saved with its weights.

    `head_layers` is the number of projection layers between encoder and classifier (0: none).
    """

    architecture: str
    image_size: int
    classes: int
    head_depth: int
    head_layers: int


class Classifier(nn.Module):
    """Encoder, the first `head_layers` layers of a projection head, and a linear layer to the logits."""

    def __init__(self, spec: ModelSpec, *, zero_init: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(parse_architecture(spec.architecture), spec.image_size)
        self.head: nn.Module = nn.Identity()
        width = self.encoder.feature_dim
        if spec.head_layers:
            head = ProjectionHead(width, spec.head_depth)
            del head.layers[spec.head_layers :]
            self.head = head
            width = PROJECTION_DIM if spec.head_layers == spec.head_depth else width
        self.classifier = LinearClassifier(width, spec.classes, zero_init=zero_init)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, S, S) in [0, 1] -> logits (n, classes)."""
        logits: Tensor = self.classifier(self.head(self.encoder(images)))
        return logits


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def model_state(module: Classifier) -> State:
    return {"spec": dict(vars(module.spec)), "module": module.state_dict()}


def load_classifier(uri: str, context: Context, dtype: torch.dtype) -> Classifier:
    """A saved classifier, fixed and in inference mode: a teacher."""
    state = load_model(uri)
    module = Classifier(ModelSpec(**state["spec"]))
    module.load_state_dict(state["module"])
    return module.to(context.device, dtype).eval().requires_grad_(False)


def load_model(uri: str) -> State:
    """The saved model of a parent.

    Raises:
        ValueError: the parent has a record but its model is gone from storage.
    """
    state = load_state(uri)
    if state is None:
        raise ValueError(
            f"the parent's model {uri} is missing from storage; delete the parent's record to train it again, "
            "or put the file back"
        )
    return state


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inference mode of layers and gradients, and back to training afterwards."""
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(was_training)


def evaluate(module: nn.Module, shards: str, image_size: int, context: Context, dtype: torch.dtype) -> dict[str, float]:
    """Top-1 and top-5 accuracy in [0, 1] and mean cross-entropy on the test split, every image counted once.

    `module` maps images (n, 3, S, S) to logits. Counts are summed over ranks and divided once.

    Raises:
        NonFiniteLossError: the model gives infinities or NaN.
    """
    counts = torch.zeros(3, dtype=torch.float64, device=context.device)
    loss = torch.zeros(1, dtype=torch.float64, device=context.device)
    with evaluating(module):
        for batch in eval_batches(
            shards,
            split="test",
            rows=None,
            per_worker_batch_size=EVAL_BATCH_SIZE,
            rank=context.rank,
            world_size=context.world_size,
            max_side=CANVAS * image_size,
        ):
            images = batch.images.to(context.device)
            labels = batch.labels.to(context.device)
            logits = module(eval_view(images, batch.sizes, image_size, dtype))
            counts += topk_counts(logits, labels)
            loss += nn.functional.cross_entropy(logits.double(), labels, reduction="sum")
            context.report(1.0)
    top1, top5, images_seen, summed_loss = reduce_counts(torch.cat([counts, loss])).tolist()
    if not math.isfinite(summed_loss):
        raise NonFiniteLossError(
            "the loss on the test split is not finite: the last steps diverged; lower learning_rate"
        )
    return {
        "top1": top1 / images_seen,
        "top5": top5 / images_seen,
        "loss": summed_loss / images_seen,
        "evaluated": images_seen,
    }
