"""What is known of an encoder before it is built, whatever its family, without torch.

A plan of thousands of trials prices every one of them, so that nothing here builds a network. The tests hold what a
family counts to the networks that it builds.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.networks.encoder import Encoder

SMALL_IMAGE_SIZE = 32
"""Up to this size (pixels) images are small ones: ResNets do not shrink them at once, evaluation does not crop them."""


class Architecture(ABC):
    """One encoder f: its name, its size, its cost and how it is built. Equal ones are equal and hash alike.

    Whatever takes an `image_size` (height = width, pixels) raises ValueError for one that the encoder cannot take.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The one spelling, of letters, digits, "." and "_": it stands in ids, folders and URLs."""

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Length of the features h."""

    @abstractmethod
    def trainable_parameters(self, image_size: int) -> int:
        """Numbers that training changes by gradients."""

    @abstractmethod
    def parameters(self, image_size: int) -> int:
        """All numbers of the encoder: the trainable ones and, where there is batch norm, its moving statistics."""

    @abstractmethod
    def forward_flops(self, image_size: int) -> int:
        """FLOPs of one image's forward pass; a multiply-add is two, and only convolutions and matrix products count."""

    @abstractmethod
    def first_layer_flops(self, image_size: int) -> int:
        """Those of them in the first layer, which has no gradient with respect to its inputs to compute."""

    @abstractmethod
    def build(self, image_size: int) -> Encoder:
        """The network, with random weights from torch's generator. The only function of a family that loads torch."""


@dataclass(frozen=True)
class Family:
    """Architectures whose names match one pattern, which no name of another family matches.

    `parse` gives the architecture of a name that matches, or None where the name is not the one spelling of any; it may
    raise ValueError to say more. `nearest` gives the architecture that a text most likely means, or None where it does
    not look like one of the family; of a text that matches the pattern, always one. `spelling` tells how names are
    written.
    """

    pattern: re.Pattern[str]
    parse: Callable[[str], Architecture | None]
    nearest: Callable[[str], Architecture | None]
    spelling: str
