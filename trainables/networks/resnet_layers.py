"""The convolutions of a ResNet: shapes, parameter and FLOP counts, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from trainables.networks.architecture import SMALL_IMAGE_SIZE

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


@dataclass(frozen=True)
class Shape:
    """Depth (layers), width multiplier and selective kernels (ResNet-D stem and shortcuts included) of a ResNet."""

    depth: int
    width: float
    selective_kernels: bool

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

    @property
    def feature_dim(self) -> int:
        """Channels of the last maps: 2048 x width with bottleneck blocks, 512 x width with basic ones."""
        return self.channels(GROUP_CHANNELS[-1]) * self.expansion

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


def sk_channels(filters: int) -> int:
    """Channels of the squeeze of a selective-kernel layer with `filters` outputs."""
    return max(int(filters * SK_RATIO), SK_MIN_CHANNELS)


@cache
def conv_layers(shape: Shape, image_size: int) -> tuple[ConvLayer, ...]:
    """Every convolution of the encoder for square images of `image_size` pixels, in the order of computation.

    The shortcut's projection comes first in the first block of each group. Raises ValueError for an image_size below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, found {image_size}")
    layers, size = _stem_layers(shape, image_size)
    in_channels = layers[-1].out_channels
    for base, blocks, group_stride in zip(GROUP_CHANNELS, shape.blocks, GROUP_STRIDES, strict=True):
        filters = shape.channels(base)
        for index in range(blocks):
            stride = group_stride if index == 0 else 1
            layers += _block_layers(shape, in_channels, filters, stride, size, projection=index == 0)
            in_channels, size = filters * shape.expansion, _strided(size, stride)
    return tuple(layers)


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)  # SAME: rounded up


def _stem_layers(shape: Shape, image_size: int) -> tuple[list[ConvLayer], int]:
    """Layers of the stem and the size of its output."""
    width = shape.channels(64)
    if image_size <= SMALL_IMAGE_SIZE:
        return [ConvLayer(3, width, 3, 1, image_size)], image_size
    size = _strided(image_size, 2)
    if shape.selective_kernels:
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
    shape: Shape, in_channels: int, filters: int, stride: int, in_size: int, *, projection: bool
) -> list[ConvLayer]:
    """Layers of one residual block on `in_channels` maps of `in_size` pixels."""
    size = _strided(in_size, stride)
    out_channels = filters * shape.expansion
    layers = []
    if projection:  # with selective kernels an average pool before the projection takes the stride
        layers.append(ConvLayer(in_channels, out_channels, 1, 1 if shape.selective_kernels else stride, size))
    if shape.block == "basic":
        layers += [ConvLayer(in_channels, filters, 3, stride, size), ConvLayer(filters, filters, 3, 1, size)]
        return layers
    layers.append(ConvLayer(in_channels, filters, 1, 1, in_size))
    if shape.selective_kernels:
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


def trainable_parameters(shape: Shape, image_size: int) -> int:
    """Weights, and weights and biases of batch norm, up to average pooling."""
    return sum(x.weights + 2 * x.out_channels * x.batch_norm for x in conv_layers(shape, image_size))


def moving_statistics(shape: Shape, image_size: int) -> int:
    """The moving means and variances of batch norm."""
    return sum(2 * x.out_channels * x.batch_norm for x in conv_layers(shape, image_size))
