from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from trainables.auto_augment import Policy, auto_augment

POLICIES: tuple[Policy, ...] = ("imagenet", "cifar10", "svhn")


def _images(n: int, size: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_is_what_torchvision_makes_of_it_with_its_seed(policy: Policy) -> None:
    images, seeds = _images(30, 24), torch.arange(30) * 10**15 - 10**16
    ours = auto_augment(images.clone(), seeds, policy)
    transform = v2.AutoAugment(v2.AutoAugmentPolicy[policy.upper()])
    for image, seed, result in zip(images, seeds.tolist(), ours, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            assert torch.equal(transform(image), result)
    assert (ours != images).flatten(1).any(1).sum() > 15


def test_policies_differ() -> None:
    results = [auto_augment(_images(20, 16), torch.arange(20), policy) for policy in POLICIES]
    assert not any(torch.equal(results[i], results[i - 1]) for i in range(3))


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, seeds = _images(20, 16), torch.arange(20)
    together = auto_augment(images.clone(), seeds, "imagenet")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))[:7]
    assert torch.equal(auto_augment(images[order], seeds[order], "imagenet"), together[order])


def test_the_global_generator_goes_on_as_if_nothing_had_been_drawn() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = torch.get_rng_state()
        auto_augment(_images(5, 16), torch.arange(5), "imagenet")
        assert torch.equal(torch.get_rng_state(), state)
