from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from digit_shards import TEST, TRAIN, digits
from trainables.classifier import evaluate
from trainables.context import Context


class LinearOfPixels(nn.Module):
    """Logits that NumPy can repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(64, 10))))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 1].flatten(1) @ self.weight


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_test_image_is_evaluated_once(shards: str, world_size: int) -> None:
    module = LinearOfPixels().train()
    measured = [
        evaluate(module, shards, 8, Context("/nowhere", rank, world_size), torch.float64) for rank in range(world_size)
    ]
    assert module.training
    pixels, labels = digits().pixels[TRAIN:].reshape(TEST, 64) / 255, digits().labels[TRAIN:]
    logits = pixels @ module.weight.detach().numpy()
    ranks = (logits > logits[range(TEST), labels][:, None]).sum(1)
    losses = np.log(np.exp(logits).sum(1)) - logits[range(TEST), labels]
    seen = np.array([one["evaluated"] for one in measured])
    assert seen.sum() == TEST and seen.max() - seen.min() <= 1
    for name, expected in (("top1", (ranks < 1).sum()), ("top5", (ranks < 5).sum()), ("loss", losses.sum())):
        assert sum(seen * [one[name] for one in measured]) == pytest.approx(expected, rel=1e-9), name
