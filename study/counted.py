"""Operations of a training as torch counts them on the real networks, beside those that a plan counts without torch.

On the "meta" device, which has shapes and no values: nothing is computed, whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from study.plan import forward_flops_of
from trainables.architecture import parse_architecture
from trainables.classifier import Classifier, ModelSpec
from trainables.heads import ProjectionHead

ROWS = 2  # batch norm in training wants more than one


@dataclass(frozen=True)
class Counts:
    """Operations for one image: of the forward pass, of the backward pass, and of the first layer.

    A backward pass makes two products for each of the forward one's, but none with respect to the images: it is two
    forward passes less one first layer.
    """

    forward: float
    backward: float
    first_layer: float


@cache
def counts(architecture: str, image_size: int, classes: int, head_depth: int, head_layers: int) -> Counts:
    """What torch counts of an encoder with `head_layers` projection layers and, if `classes`, a linear layer."""
    parsed = parse_architecture(architecture)
    with torch.device("meta"):
        images = torch.empty(ROWS, 3, image_size, image_size)
        network: nn.Module
        if classes:
            network = Classifier(ModelSpec(architecture, image_size, classes, head_depth, head_layers))
        else:
            encoder = parsed.build(image_size)
            network = nn.Sequential(encoder, ProjectionHead(encoder.feature_dim, head_depth)) if head_depth else encoder
    made: list[Tensor] = []
    forward = _count(lambda: made.append(network(images).sum()))
    backward = _count(lambda: made[0].backward())  # type: ignore[no-untyped-call]
    first_layer = parsed.first_layer_flops(image_size)
    return Counts(forward / ROWS, backward / ROWS, first_layer)


def check_counts(architecture: str, image_size: int, classes: int, head_depth: int) -> float:
    """Compare a plan's counts of an architecture with torch's, for pretraining and for a classifier.

    Returns the share, in [0, 1], by which a plan, to which every backward pass is two forward passes, counts more than
    torch does in training: the products of the first layer with respect to the images, which nobody needs.

    Raises:
        ValueError: they differ by anything else.
    """
    share = 0.0
    for kind in ((0, head_depth, head_depth), (classes, 0, 0)):
        planned = forward_flops_of(architecture, image_size, *kind)
        found = counts(architecture, image_size, *kind)
        if found.forward != planned or found.forward + found.backward != 3 * planned - found.first_layer:
            raise ValueError(
                f"{architecture} at {image_size} pixels: torch {torch.__version__} counts {found.forward:.6g} "
                f"operations forward and {found.backward:.6g} backward, a plan {planned:.6g} and "
                f"{2 * planned - found.first_layer:.6g}: the network is not the one that the plan counts, and its "
                "hours would be wrong; nothing was measured"
            )
        share = max(share, found.first_layer / (3 * planned))
    return share


def _count(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
