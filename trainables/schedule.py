"""Durations and the learning rate, in steps; the only place where epochs become steps.

A step is one update. The step handed to `learning_rate_at` is the number of updates already made, so the first is 0.
"""

from __future__ import annotations

import math

from trainables.spec import Optimization


def total_steps(rows: int, epochs: int, global_batch_size: int) -> int:
    """Updates of a training of `epochs` passes over `rows`: floor(rows x epochs / batch) + 1 (official code)."""
    if rows < 1:
        raise ValueError(f"a training needs at least one row, found {rows}; choose a larger label fraction or data set")
    return rows * epochs // global_batch_size + 1


def warmup_steps(rows: int, warmup_epochs: float, global_batch_size: int) -> int:
    """Updates during which the learning rate rises linearly: floor(warmup_epochs x rows / batch) (official code)."""
    return round(warmup_epochs * rows // global_batch_size)


def peak_learning_rate(optimization: Optimization) -> float:
    """The learning rate at the end of the warmup: scaled by sqrt(batch), by batch / 256, or as it is."""
    batch = optimization.global_batch_size
    scale = {"sqrt": math.sqrt(batch), "linear": batch / 256, "none": 1.0}[optimization.learning_rate_scaling]
    return optimization.learning_rate * scale


def learning_rate_at(step: int, *, rows: int, optimization: Optimization) -> float:
    """Linear warmup from 0 (at step 0), then half a cosine down to 0 at the last step; 0 afterwards.

    Raises ValueError when the warmup takes the whole training.
    """
    assert step >= 0
    total = total_steps(rows, optimization.epochs, optimization.global_batch_size)
    warmup = warmup_steps(rows, optimization.warmup_epochs, optimization.global_batch_size)
    if warmup >= total:
        raise ValueError(
            f"warmup_epochs {optimization.warmup_epochs:g} is {warmup} steps of a training of {total}; "
            f"expected at most its epochs, {optimization.epochs}"
        )
    peak = peak_learning_rate(optimization)
    if step < warmup:
        return step / warmup * peak
    progress = min(step - warmup, total - warmup) / (total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
