"""Collapse: features or projections that keep only a few directions, measured by their effective rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainables.collectives import sum_over_ranks, world_size

PATIENCE = 3
"""So many rows of the history in a row must lie below the minimum: a single bad batch stops nothing.

But after the last step one is enough: none can follow, and what is kept is the network of that row. By then the
learning rate is near zero, so that the network is that of the steps before, and its features are no accident.
"""

CONSTANT_VARIANCE = 1e-5
"""Unit rows that vary less than this about their mean, in squared distance, count as constant.

What is left then may be rounding, which looks like many directions: bfloat16 rounds to one part in 2^9, 1.3e-6 in
squared distance.
"""


class CollapsedError(RuntimeError):
    """The features lost all but a few directions; what is trained on them would be worth nothing, so training stops."""


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """The number of directions that features (n, d) of all ranks use, in [1, d]; equal on every rank.

    Rows are normalized to unit length and centered by the mean over all ranks, whose numbers of rows may differ. With s
    the singular values of the result and p = s / sum(s), it is exp(-sum(p ln p)) (Roy and Vetterli 2007; Garrido et al.
    2023 use it for self-supervised features, as they are). Without the centering, a mean that all rows share would
    count as a direction. Constant features have rank 1. Costs one exchange of d x d numbers and an eigenvalue problem
    of that size (n x n on one rank with n < d).
    """
    # Eigenvalues are squares of singular values: float32 would leave each of d directions 3e-4 of the largest.
    rows = features.detach().double()
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)
    sums = sum_over_ranks(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])]))
    rows = rows - sums[:-1] / sums[-1]
    one_rank_with_few_rows = world_size() == 1 and rows.shape[0] < rows.shape[1]
    scatter = rows @ rows.T if one_rank_with_few_rows else sum_over_ranks(rows.T @ rows)
    variance = scatter.trace().item() / sums[-1].item()
    assert math.isfinite(variance), "features of a finite loss are finite"
    if variance < CONSTANT_VARIANCE:
        return 1.0
    eigenvalues = torch.linalg.eigvalsh(scatter)
    # Zeros come out as rounding errors, whose square roots would be visible and differ with the number of ranks.
    noise = eigenvalues.amax() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    singular = eigenvalues.where(eigenvalues > noise, 0.0).sqrt()
    shares = singular / singular.sum()
    return math.exp(torch.special.entr(shares).sum().item())


def collapsed(
    history: Sequence[Mapping[str, float]], name: str, minimum: float, warmup_steps: int, last_step: int
) -> bool:
    """Whether the last `PATIENCE` rows of a history, all after the warm-up, have a rank `name` below `minimum`.

    Rows have a `step`, the number of updates done; the row of `last_step`, the number of all, is judged by itself.
    """
    if history and history[-1]["step"] == last_step:
        return history[-1][name] < minimum
    rows = [row for row in history if row["step"] > warmup_steps][-PATIENCE:]
    return len(rows) == PATIENCE and all(row[name] < minimum for row in rows)
