"""ResNets of any width, also with selective kernels: `r50`, `r50w2`, `r152w3sk`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.networks.architecture import Architecture, Family
from trainables.networks.resnet_layers import (
    BLOCKS_PER_GROUP,
    GROUP_CHANNELS,
    Shape,
    conv_layers,
    moving_statistics,
    trainable_parameters,
)

if TYPE_CHECKING:
    from trainables.networks.encoder import Encoder

MOST_WIDTH = 64
_MIN_CHANNELS = 4
_PATTERN = re.compile(r"r([0-9]+)(?:w([0-9]+(?:\.[0-9]+)?))?(sk)?")


@dataclass(frozen=True)
class ResNet(Shape, Architecture):
    """A ResNet of one depth and width, with or without selective kernels."""

    @property
    def name(self) -> str:
        """The one spelling: `r50`, `r50w2`, `r152w3sk`, `r10w0.25`."""
        width = "" if self.width == 1 else f"w{int(self.width) if self.width.is_integer() else self.width}"
        return f"r{self.depth}{width}{'sk' if self.selective_kernels else ''}"

    def trainable_parameters(self, image_size: int) -> int:
        return trainable_parameters(self, image_size)

    def parameters(self, image_size: int) -> int:
        """Trainable parameters up to average pooling plus the moving means and variances of batch norm.

        Table 1's column counts both: with the trainable ones alone, two of its thirteen rows would round differently.
        """
        return trainable_parameters(self, image_size) + moving_statistics(self, image_size)

    def forward_flops(self, image_size: int) -> int:
        return sum(layer.flops for layer in conv_layers(self, image_size))

    def first_layer_flops(self, image_size: int) -> int:
        return conv_layers(self, image_size)[0].flops

    def build(self, image_size: int) -> Encoder:
        from trainables.networks.resnet_module import ResNetEncoder

        return ResNetEncoder(self, image_size)


def _parse(name: str) -> ResNet | None:
    """The ResNet of a name, if that is its one spelling and its width makes 64 x width a whole number of at least 4.

    (An even number with selective kernels, whose stem halves it.)
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    width = float(match[2] or 1)
    if width > MOST_WIDTH:
        raise ValueError(f"architecture {name!r} is wider than {MOST_WIDTH} times")
    found = ResNet(int(match[1]), width, match[3] is not None)
    return found if found == _valid(found) and found.name == name else None


def _valid(wanted: ResNet) -> ResNet:
    """The ResNet that exists nearest to one that need not."""
    depth = min(BLOCKS_PER_GROUP, key=lambda valid: abs(valid - wanted.depth))
    step = 2 if wanted.selective_kernels else 1
    channels = max(_MIN_CHANNELS, step * round(wanted.width * GROUP_CHANNELS[0] / step))
    return ResNet(depth, channels / GROUP_CHANNELS[0], wanted.selective_kernels)


def _nearest(text: str) -> ResNet:
    """The ResNet that a free spelling such as `ResNet-50 (2x, SK)` most likely means."""
    text = text.lower()
    depth = re.search(r"\d+", text)
    rest = text[depth.end() :] if depth else text
    width = re.search(r"[wx_ -](\d*\.?\d+)|(\d*\.?\d+)x", rest)
    return _valid(
        ResNet(
            depth=int(depth[0]) if depth else 50,
            width=min(float(width[1] or width[2]), MOST_WIDTH) if width else 1.0,
            selective_kernels="sk" in rest and not rest.endswith("sk0"),
        )
    )


FAMILY = Family(
    pattern=_PATTERN,
    parse=_parse,
    nearest=_nearest,
    spelling="r<depth>[w<width>][sk], such as r50, r50w2 or r152w3sk, "
    f"with depth {', '.join(map(str, BLOCKS_PER_GROUP))} and 64 x width whole",
)
