from __future__ import annotations

import math

import pytest

from trainables.schedule import learning_rate_at, peak_learning_rate, total_steps, warmup_steps
from trainables.spec import Optimization

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "warmup_epochs", "total", "warmup"),
    [
        (IMAGENET, 4096, 800, 40.0, 250_228, 12_511),
        (IMAGENET, 4096, 100, 10.0, 31_279, 3_127),
        (50_000, 512, 1000, 10.0, 97_657, 976),
        (12_811, 1024, 60, 0.0, 751, 0),
        (1_000, 48, 7, 0.35, 146, 7),
        (13, 1024, 60, 0.0, 1, 0),
    ],
)
def test_durations_in_steps_are_those_of_the_official_code(
    rows: int, batch: int, epochs: int, warmup_epochs: float, total: int, warmup: int
) -> None:
    assert total_steps(rows, epochs, batch) == total
    assert warmup_steps(rows, warmup_epochs, batch) == warmup


def test_peak_learning_rate_scales_with_the_global_batch() -> None:
    base = Optimization(learning_rate=0.1, global_batch_size=4096, epochs=1)
    assert peak_learning_rate(base) == pytest.approx(6.4)
    assert peak_learning_rate(base.model_copy(update={"learning_rate_scaling": "linear"})) == pytest.approx(1.6)
    assert peak_learning_rate(base.model_copy(update={"learning_rate_scaling": "none"})) == 0.1


def test_learning_rate_rises_linearly_from_0_then_falls_along_half_a_cosine_to_0() -> None:
    optimization = Optimization(
        learning_rate=0.1, global_batch_size=10, epochs=5, warmup_epochs=1.0
    )  # 51 steps, 10 warm
    rates = [learning_rate_at(step, rows=100, optimization=optimization) for step in range(60)]
    peak = 0.1 * math.sqrt(10)
    assert rates[0] == 0.0
    assert rates[:10] == pytest.approx([peak * step / 10 for step in range(10)])
    assert rates[10] == pytest.approx(peak)
    assert rates[10:51] == pytest.approx([peak * math.cos(math.pi / 2 * step / 41) ** 2 for step in range(41)])
    assert rates[51:] == pytest.approx([0.0] * 9, abs=1e-15)


def test_learning_rate_without_warmup_starts_at_its_peak() -> None:
    optimization = Optimization(learning_rate=0.005, global_batch_size=1024, epochs=60)
    assert learning_rate_at(0, rows=12_811, optimization=optimization) == pytest.approx(0.16)


def test_a_warmup_longer_than_the_training_is_refused() -> None:
    optimization = Optimization(learning_rate=0.1, global_batch_size=10, epochs=5, warmup_epochs=6.0)
    with pytest.raises(ValueError, match="warmup_epochs 6 is 60 steps of a training of 51"):
        learning_rate_at(0, rows=100, optimization=optimization)


def test_a_training_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        total_steps(0, 1, 10)
