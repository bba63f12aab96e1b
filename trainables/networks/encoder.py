"""What all encoders have in common once they are built."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Encoder(nn.Module, ABC):
    """f: images (n, 3, image_size, image_size), floats in [0, 1], to features h (n, feature_dim).

    A subclass sets `feature_dim` and `layers`, and takes its images in `memory_format`.

    Its parameters are in `layers` layers, the first of which is nearest to the images, for learning rates that are
    smaller in lower layers.
    """

    feature_dim: int
    layers: int
    memory_format: torch.memory_format = torch.contiguous_format

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Choose how weights and maps lie in memory; values are the same, up to the order of sums."""
        self.memory_format = memory_format
        self.to(memory_format=memory_format)

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """The layer of the encoder's parameter of this name, from 0 on."""
