"""What an encoder is made of: names, shapes, parameter and FLOP counts, without torch.

A plan of thousands of trials prices every one of them, so nothing here builds a network. `resnet.Encoder` builds the
same layers; the tests hold the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

SMALL_IMAGE_SIZE = 32
"""Up to this size (pixels) the stem is one 3x3 convolution at stride 1 without pooling: official code, `cifar_stem`."""

BLOCKS_PER_GROUP: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
GROUP_CHANNELS = (64, 128, 256, 512)  # at width 1; He et al. 2016, table 1
GROUP_STRIDES = (1, 2, 2, 2)
BOTTLENECK_EXPANSION = 4
SK_RATIO, SK_MIN_CHANNELS = 0.0625, 32  # squeeze of selective kernels, official code
PROJECTION_DIM = 128  # output of the projection head at every width, official code

_MIN_CHANNELS = 4
MOST_WIDTH = 64
MOST_NAME = 40  # characters
_NAME = re.compile(r"r([0-9]+)(?:w([0-9]+(?:\.[0-9]+)?))?(sk)?")


@dataclass(frozen=True)
class Architecture:
    """Depth (layers), width multiplier and selective kernels (ResNet-D stem and shortcuts included) of an encoder."""

    depth: int
    width: float
    selective_kernels: bool

    @property
    def name(self) -> str:
        """The one spelling: `r50`, `r50w2`, `r152w3sk`, `r10w0.25`."""
        width = "" if self.width == 1 else f"w{int(self.width) if self.width.is_integer() else self.width}"
        return f"r{self.depth}{width}{'sk' if self.selective_kernels else ''}"

    @property
    def block(self) -> Literal["basic", "bottleneck"]:
        return BLOCKS_PER_GROUP[self.depth][0]

    @property
    def expansion(self) -> int:
        """Output channels of a block over its inner filters."""
        return BOTTLENECK_EXPANSION if self.block == "bottleneck" else 1

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        return BLOCKS_PER_GROUP[self.depth][1]

    def channels(self, base: int) -> int:
        """`base` channels at width 1, at this width."""
        return round(base * self.width)


@dataclass(frozen=True)
class ConvLayer:
    """One bias-free convolution (a dense layer is a 1x1 one on one pixel), maybe followed by a batch norm."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    output_size: int  # height = width, pixels
    batch_norm: bool = True

    @property
    def weights(self) -> int:
        return self.in_channels * self.out_channels * self.kernel**2

    @property
    def flops(self) -> int:
        return 2 * self.weights * self.output_size**2


@cache
def parse_architecture(name: str) -> Architecture:
    """Read the canonical spelling of an architecture.

    Raises ValueError, naming the nearest valid spelling, for anything else: an unknown depth, a width that does not
    make 64 x width a whole number of at least 4 (even with selective kernels, whose stem halves it), or a second
    spelling of a valid architecture (`r50w1`, `R50`, `resnet50`).
    """
    if len(name) > MOST_NAME:
        raise ValueError(f"an architecture's name has {len(name):,} characters; expected at most {MOST_NAME}")
    match = _NAME.fullmatch(name)
    if match and float(match[2] or 1) > MOST_WIDTH:
        raise ValueError(f"architecture {name!r} is wider than {MOST_WIDTH} times")
    if match:
        architecture = Architecture(int(match[1]), float(match[2] or 1), match[3] is not None)
        if architecture == _nearest(architecture) and architecture.name == name:
            return architecture
    raise ValueError(
        f"unknown architecture {name!r}; the nearest is {_nearest(_guess(name)).name!r}. "
        f"Expected r<depth>[w<width>][sk], such as r50, r50w2 or r152w3sk, "
        f"with depth {', '.join(map(str, BLOCKS_PER_GROUP))} and 64 x width whole"
    )


def _nearest(architecture: Architecture) -> Architecture:
    depth = min(BLOCKS_PER_GROUP, key=lambda valid: abs(valid - architecture.depth))
    step = 2 if architecture.selective_kernels else 1
    channels = max(_MIN_CHANNELS, step * round(architecture.width * GROUP_CHANNELS[0] / step))
    return Architecture(depth, channels / GROUP_CHANNELS[0], architecture.selective_kernels)


def _guess(name: str) -> Architecture:
    """The architecture that a free spelling such as `ResNet-50 (2x, SK)` most likely means."""
    text = name.lower()
    depth = re.search(r"\d+", text)
    rest = text[depth.end() :] if depth else text
    width = re.search(r"[wx_ -](\d*\.?\d+)|(\d*\.?\d+)x", rest)
    return Architecture(
        depth=int(depth[0]) if depth else 50,
        width=min(float(width[1] or width[2]), MOST_WIDTH) if width else 1.0,
        selective_kernels="sk" in rest and not rest.endswith("sk0"),
    )


def feature_dim(architecture: Architecture) -> int:
    """Channels of the encoder's output h: 2048 x width with bottleneck blocks, 512 x width with basic ones."""
    return architecture.channels(GROUP_CHANNELS[-1]) * architecture.expansion


def sk_channels(filters: int) -> int:
    """Channels of the squeeze of a selective-kernel layer with `filters` outputs."""
    return max(int(filters * SK_RATIO), SK_MIN_CHANNELS)


@cache
def conv_layers(architecture: Architecture, image_size: int) -> tuple[ConvLayer, ...]:
    """Every convolution of the encoder for square images of `image_size` pixels, in the order of computation.

    The shortcut's projection comes first in the first block of each group. Raises ValueError for an image_size below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, found {image_size}")
    layers, size = _stem_layers(architecture, image_size)
    in_channels = layers[-1].out_channels
    for base, blocks, group_stride in zip(GROUP_CHANNELS, architecture.blocks, GROUP_STRIDES, strict=True):
        filters = architecture.channels(base)
        for index in range(blocks):
            stride = group_stride if index == 0 else 1
            layers += _block_layers(architecture, in_channels, filters, stride, size, projection=index == 0)
            in_channels, size = filters * architecture.expansion, _strided(size, stride)
    return tuple(layers)


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)  # SAME: rounded up


def _stem_layers(architecture: Architecture, image_size: int) -> tuple[list[ConvLayer], int]:
    """Layers of the stem and the size of its output."""
    width = architecture.channels(64)
    if image_size <= SMALL_IMAGE_SIZE:
        return [ConvLayer(3, width, 3, 1, image_size)], image_size
    size = _strided(image_size, 2)
    if architecture.selective_kernels:
        half = width // 2
        layers = [
            ConvLayer(3, half, 3, 2, size),
            ConvLayer(half, half, 3, 1, size),
            ConvLayer(half, width, 3, 1, size),
        ]
    else:
        layers = [ConvLayer(3, width, 7, 2, size)]
    return layers, _strided(size, 2)


def _block_layers(
    architecture: Architecture, in_channels: int, filters: int, stride: int, in_size: int, *, projection: bool
) -> list[ConvLayer]:
    """Layers of one residual block on `in_channels` maps of `in_size` pixels."""
    size = _strided(in_size, stride)
    out_channels = filters * architecture.expansion
    layers = []
    if projection:  # with selective kernels an average pool before the projection takes the stride
        layers.append(ConvLayer(in_channels, out_channels, 1, 1 if architecture.selective_kernels else stride, size))
    if architecture.block == "basic":
        layers += [ConvLayer(in_channels, filters, 3, stride, size), ConvLayer(filters, filters, 3, 1, size)]
        return layers
    layers.append(ConvLayer(in_channels, filters, 1, 1, in_size))
    if architecture.selective_kernels:
        squeezed = sk_channels(filters)
        layers += [
            ConvLayer(in_channels=filters, out_channels=2 * filters, kernel=3, stride=stride, output_size=size),
            ConvLayer(in_channels=filters, out_channels=squeezed, kernel=1, stride=1, output_size=1),
            ConvLayer(squeezed, 2 * filters, kernel=1, stride=1, output_size=1, batch_norm=False),
        ]
    else:
        layers.append(ConvLayer(filters, filters, 3, stride, size))
    layers.append(ConvLayer(filters, out_channels, 1, 1, size))
    return layers


def trainable_encoder_parameters(architecture: Architecture, image_size: int) -> int:
    """Weights, gammas and betas up to average pooling."""
    return sum(x.weights + 2 * x.out_channels * x.batch_norm for x in conv_layers(architecture, image_size))


def encoder_parameters(architecture: Architecture, image_size: int) -> int:
    """Trainable parameters up to average pooling plus the moving means and variances of batch norm.

    Table 1's column counts both: with the trainable ones alone, two of its thirteen rows would round differently.
    """
    moving = sum(2 * x.out_channels * x.batch_norm for x in conv_layers(architecture, image_size))
    return trainable_encoder_parameters(architecture, image_size) + moving


def forward_flops(architecture: Architecture, image_size: int) -> int:
    """FLOPs of one image's forward pass; a multiply-add is two, and only convolutions and matrix products count."""
    return sum(layer.flops for layer in conv_layers(architecture, image_size))


def head_flops(architecture: Architecture, depth: int, layers: int) -> int:
    """FLOPs of one image's forward pass through the first `layers` layers of a projection head of `depth` layers."""
    if not 0 <= layers <= depth or depth < 1:
        raise ValueError(
            f"expected a projection head of at least 1 layer and 0 to all of them, found {layers} of {depth}"
        )
    dim = feature_dim(architecture)
    return 2 * (min(layers, depth - 1) * dim * dim + (layers == depth) * dim * PROJECTION_DIM)
