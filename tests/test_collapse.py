from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from trainables.collapse import collapsed, effective_rank


def _features(n: int, d: int, directions: int) -> Tensor:
    """Rows of very different lengths that share a mean and vary in `directions` directions, by different amounts."""
    rng = np.random.default_rng(n)
    varying = rng.standard_normal((n, directions)) / np.arange(1, directions + 1) @ rng.standard_normal((directions, d))
    return torch.from_numpy((varying + 3) * rng.uniform(0.1, 10, (n, 1)))


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (12, 12)])
def test_effective_rank_is_that_of_the_singular_values(n: int, d: int) -> None:
    for directions in (2, 7):
        features = _features(n, d, directions)
        assert effective_rank(features) == pytest.approx(reference.effective_rank(features.numpy()), rel=1e-5)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_directions_that_are_used_equally_are_counted(directions: int) -> None:
    axes = torch.eye(8)[:directions]
    assert effective_rank(torch.cat([axes, -axes]).repeat(5, 1)) == pytest.approx(directions, rel=1e-6)


def test_one_direction_of_float32_features_counts_as_one_among_many() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(300, 1, generator=generator) * torch.randn(1, 256, generator=generator)
    assert effective_rank(line + 5) < 2  # a line is an arc once rows have unit length
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_constant_features_have_rank_one(dtype: torch.dtype) -> None:
    row = torch.rand(32, generator=torch.Generator().manual_seed(0))
    scales = torch.linspace(0.5, 2, 40)[:, None]
    assert effective_rank((row * scales).to(dtype)) == 1.0
    assert effective_rank(torch.zeros(40, 32, dtype=dtype)) == 1.0


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AssertionError):
        effective_rank(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]))


def _history(*ranks: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * number, "effective_rank": rank} for number, rank in enumerate(ranks, 1)]


def _collapsed(*ranks: float, minimum: float = 1.5, warmup_steps: int = 0, last_step: int = 1000) -> bool:
    return collapsed(_history(*ranks), "effective_rank", minimum, warmup_steps, last_step)


def test_three_low_rows_after_the_warmup_are_a_collapse() -> None:
    assert _collapsed(9, 1.2, 1.4, 1.0)
    assert not _collapsed(9, 9, 1.2, 1.4)
    assert not _collapsed(1.2, 1.2, 1.2, 9)
    assert not _collapsed(1.2, 1.2, 9, 1.2)
    assert not _collapsed(1.2, 1.2, 1.5)
    assert not _collapsed(1.2, 1.2) and not _collapsed()


def test_rows_of_the_warmup_are_no_collapse() -> None:
    assert _collapsed(1, 1, 1, 1, warmup_steps=19) and not _collapsed(1, 1, 1, 1, warmup_steps=20)


@pytest.mark.parametrize("ranks", [(9, 9, 1.2), (9, 1.2, 1.4), (1.2,)])
@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_a_low_row_after_the_last_step_is_a_collapse(ranks: tuple[float, ...], warmup_steps: int) -> None:
    last = 10 * len(ranks)
    assert _collapsed(*ranks, warmup_steps=warmup_steps, last_step=last)
    assert not _collapsed(*ranks, warmup_steps=warmup_steps, last_step=last + 1)
    assert not _collapsed(*ranks[:-1], 1.5, warmup_steps=warmup_steps, last_step=last)


def test_a_minimum_of_zero_lets_everything_go_on() -> None:
    assert not _collapsed(1, 1, 1, minimum=0) and not _collapsed(1, 1, 1, minimum=0, last_step=30)
