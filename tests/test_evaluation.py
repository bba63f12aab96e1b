from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trials
from digit_shards import TEST, TRAIN, digits
from gloo import run_ranks
from trainables.context import Context
from trainables.evaluation import evaluate


class LinearOfPixels(nn.Module):
    """Logits that NumPy can repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(64, 10))))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 1].flatten(1) @ self.weight


def measure(rank: int, shards: str, world_size: int) -> dict[str, float]:
    """What one rank makes of the whole evaluation."""
    module, assignment = LinearOfPixels().train(), trials.assignment(shards, trials.settings("supervised"))
    metrics = evaluate(module, assignment, Context("/nowhere", rank, world_size), torch.float64)
    assert module.training
    return metrics


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_test_image_is_evaluated_once(shards: str, world_size: int) -> None:
    found = run_ranks(measure, 2, shards, 2) if world_size > 1 else [measure(0, shards, 1)]
    pixels, labels = digits().pixels[TRAIN:].reshape(TEST, 64) / 255, digits().labels[TRAIN:]
    logits = pixels @ LinearOfPixels().weight.detach().numpy()
    ranks = (logits > logits[range(TEST), labels][:, None]).sum(1)
    losses = np.log(np.exp(logits).sum(1)) - logits[range(TEST), labels]
    expected = {"top1": (ranks < 1).mean(), "top5": (ranks < 5).mean(), "loss": losses.mean(), "evaluated": TEST}
    assert found == [pytest.approx(expected, rel=1e-9)] * world_size
