"""The encoder f: ResNets of any width, also with selective kernels (Li et al. 2019) on ResNet-D (He et al. 2019).

Details follow the official TensorFlow 2 code, where they differ from torchvision's: a projection shortcut in the first
block of every group, SAME max pooling, fan-in initialization with gain 1, images in [0, 1] without normalization.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.networks.architecture import SMALL_IMAGE_SIZE
from trainables.networks.encoder import Encoder
from trainables.networks.resnet_layers import GROUP_CHANNELS, GROUP_STRIDES, Shape, sk_channels
from trainables.norm import GlobalBatchNorm

_TRUNCATED_STD = 0.87962566103423978  # standard deviation of a unit normal cut at +-2


def _initialize(weight: Tensor) -> None:
    """Variance scaling, fan-in, gain 1: a normal cut at two standard deviations with variance 1 / fan_in."""
    std = math.sqrt(1 / weight[0].numel()) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    _initialize(conv.weight)
    return conv


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = _conv(in_channels, out_channels, kernel, stride)
    return [conv, GlobalBatchNorm(out_channels), nn.ReLU(inplace=True)]


class MaxPoolSame(nn.Module):
    """3x3 max pooling at stride 2, SAME padding: at the far end only of even sizes, at both ends of odd ones."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)


class ShortcutPool(nn.Module):
    """ResNet-D's 2x2 average pooling before the projection of a shortcut.

    At stride 2 an odd size is padded by zeros that count in the mean; at stride 1 by cells that do not, which is the
    same as repeating the last row and column.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
        bottom, right = x.shape[2] % 2, x.shape[3] % 2
        return F.avg_pool2d(F.pad(x, (0, right, 0, bottom)) if bottom or right else x, 2, 2)


class SelectiveKernels(nn.Module):
    """Two 3x3 streams of `filters` channels, mixed per channel by attention over them (appendix B)."""

    def __init__(self, filters: int, stride: int) -> None:
        super().__init__()
        squeezed = sk_channels(filters)
        self.streams = nn.Sequential(*_conv_norm_relu(filters, 2 * filters, 3, stride))
        self.squeeze = nn.Linear(filters, squeezed, bias=False)
        self.norm = GlobalBatchNorm(squeezed)
        self.excite = nn.Linear(squeezed, 2 * filters, bias=False)
        _initialize(self.squeeze.weight)
        _initialize(self.excite.weight)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.chunk(self.streams(x), 2, dim=1)
        pooled = first.mean((2, 3)) + second.mean((2, 3))
        logits: Tensor = self.excite(F.relu(self.norm(self.squeeze(pooled))))
        weights = logits.view(len(x), 2, -1, 1, 1).softmax(1)
        return first * weights[:, 0] + second * weights[:, 1]


class Block(nn.Module):
    """A residual block, basic or bottleneck; the stride is on its first 3x3 convolution."""

    def __init__(self, shape: Shape, in_channels: int, filters: int, stride: int, projection: bool) -> None:
        super().__init__()
        out_channels = filters * shape.expansion
        if shape.block == "basic":
            layers = _conv_norm_relu(in_channels, filters, 3, stride)
            last = _conv(filters, out_channels, 3)
        else:
            layers = _conv_norm_relu(in_channels, filters, 1)
            if shape.selective_kernels:
                layers.append(SelectiveKernels(filters, stride))
            else:
                layers += _conv_norm_relu(filters, filters, 3, stride)
            last = _conv(filters, out_channels, 1)
        self.branch = nn.Sequential(*layers, last, GlobalBatchNorm(out_channels, zero_weight=True))
        self.shortcut = self._shortcut(shape, in_channels, out_channels, stride) if projection else nn.Identity()

    @staticmethod
    def _shortcut(shape: Shape, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        norm = GlobalBatchNorm(out_channels)
        if shape.selective_kernels:
            return nn.Sequential(ShortcutPool(stride), _conv(in_channels, out_channels, 1), norm)
        return nn.Sequential(_conv(in_channels, out_channels, 1, stride), norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


def _stem(shape: Shape, image_size: int) -> nn.Sequential:
    width = shape.channels(64)
    if image_size <= SMALL_IMAGE_SIZE:
        return nn.Sequential(*_conv_norm_relu(3, width, 3))
    if shape.selective_kernels:
        half = width // 2
        layers = [
            *_conv_norm_relu(3, half, 3, 2),
            *_conv_norm_relu(half, half, 3),
            *_conv_norm_relu(half, width, 3),
        ]
    else:
        layers = _conv_norm_relu(3, width, 7, 2)
    return nn.Sequential(*layers, MaxPoolSame())


class ResNetEncoder(Encoder):
    """f: a stem, four groups of residual blocks, and the mean of the last maps.

    Layers: the stem, and each block.
    """

    def __init__(self, shape: Shape, image_size: int) -> None:
        super().__init__()
        self.feature_dim = shape.feature_dim
        self.blocks = shape.blocks
        self.layers = 1 + sum(shape.blocks)
        self.stem = _stem(shape, image_size)
        self.groups = nn.Sequential()
        in_channels = shape.channels(64)
        for base, blocks, group_stride in zip(GROUP_CHANNELS, shape.blocks, GROUP_STRIDES, strict=True):
            filters = shape.channels(base)
            group = nn.Sequential()
            for index in range(blocks):
                first = index == 0
                group.append(Block(shape, in_channels, filters, group_stride if first else 1, first))
                in_channels = filters * shape.expansion
            self.groups.append(group)
        self.lay_out(torch.channels_last)

    def layer_of(self, name: str) -> int:
        if not name.startswith("groups."):
            return 0
        group, block = map(int, name.split(".")[1:3])
        return 1 + sum(self.blocks[:group]) + block

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        return self.groups(self.stem(images)).mean((2, 3))  # type: ignore[no-any-return]
