"""AutoAugment (Cubuk et al. 2019): two operations of a learned policy on each image, torchvision's implementation."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

Policy = Literal["imagenet", "cifar10", "svhn"]  # the data set that the policy was learned on


@cache
def _transform(policy: Policy) -> nn.Module:
    from torchvision.transforms import v2  # here, because few trainings need it

    transform: nn.Module = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    return transform


def auto_augment(images: Tensor, seeds: Tensor, policy: Policy) -> Tensor:
    """Images uint8 (n, 3, h, w), each with its own random operations: what torchvision gives for its seed.

    `seeds` int64 (n,), of which torch's generator takes the lower 32 bits, lie on the CPU. One of the policy's 25 pairs
    of operations is drawn for each image, and whether each of the two is applied and in which direction; probabilities
    and magnitudes are the policy's (Cubuk et al. 2019, appendix). Geometric operations take the nearest pixel, and
    black from outside the image: torchvision's defaults. Changes `images` in place and returns them.
    """
    transform = _transform(policy)
    # torchvision draws from torch's global CPU generator, whose state is put back. Seeding that one alone, instead of
    # calling torch.manual_seed, leaves the generators of GPUs as they are.
    with torch.random.fork_rng(devices=[]):
        for row, seed in enumerate(seeds.tolist()):
            torch.default_generator.manual_seed(seed)
            images[row] = transform(images[row])
    return images
