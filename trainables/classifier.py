"""The classifier that fine-tuning, the supervised baseline and distillation train and evaluate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.checksums import DamagedError
from trainables.architecture import PROJECTION_DIM, parse_architecture
from trainables.checkpoint import State, load_state
from trainables.context import Context
from trainables.heads import LinearClassifier, ProjectionHead


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
        self.encoder = parse_architecture(spec.architecture).build(spec.image_size)
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


def load_classifier(
    uri: str, sha256: str | None, context: Context, dtype: torch.dtype, *, image_size: int, classes: int
) -> Classifier:
    """A saved classifier, fixed and in inference mode: a teacher; its file as for `load_model`.

    Raises:
        ValueError: as `load_model`, or it was made for images of another size, or for another number of classes.
    """
    state = load_model(uri, sha256)
    spec = ModelSpec(**state["spec"])
    if (spec.image_size, spec.classes) != (image_size, classes):
        raise ValueError(
            f"the teacher {uri} tells {spec.classes} classes in images of {spec.image_size} pixels; expected {classes} "
            f"classes and {image_size} pixels, as its student has"
        )
    module = Classifier(spec)
    module.load_state_dict(state["module"])
    return context.place(module, dtype).eval().requires_grad_(False)


def load_model(uri: str, sha256: str | None) -> State:
    """The saved model of a parent, whose record says that its file has this SHA-256 (None: it does not say).

    Raises:
        ValueError: the parent has a record but its model is gone from storage, damaged, or another one.
    """
    again = "delete the parent's record and its model.pt to train it again, or put the file back"
    try:
        state = load_state(uri, sha256)
    except DamagedError as error:
        raise ValueError(f"the parent's model cannot be used: {error}; {again}") from error
    if state is None:
        raise ValueError(f"the parent's model {uri} is missing from storage; {again}")
    return state
