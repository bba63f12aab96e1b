"""Top-1 and top-5 accuracy as counts: summed over batches and ranks, divided once at the end."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[rows right at top 1, rows right at top 5, labelled rows] as int64 (3,), of logits (n, classes) and labels (n,).

    Rows with label -1 do not count. With fewer than five classes top 5 is top `classes`. Of equal logits the lower
    class ranks first, so that constant logits do not score.
    """
    own = logits.gather(1, labels.clamp_min(0)[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    # Not (own >= logits): NaN must count as wrong.
    ahead = ~(logits < own) & ((logits != own) | (classes < labels[:, None]))
    rank = ahead.sum(1)
    labelled = labels >= 0
    return torch.stack([labelled & (rank < 1), labelled & (rank < min(5, logits.shape[1])), labelled]).sum(1)
