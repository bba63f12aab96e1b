"""Classification by nearest neighbors among labelled features: what an encoder knows without any training on top."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.metrics import topk_counts

NEIGHBORS = 20  # Caron et al. 2021 (DINO) found 20 the best of 10 to 200 throughout; Wu et al. 2018 have 200
TEMPERATURE = 0.07  # of a neighbor's vote, Wu et al. 2018, section 3.4
BANK_ROWS = 50_000
"""Neighbors are sought among the first so many labelled rows at most: ordered by label rank, classes are balanced."""

_BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}  # similarities at a time: 8 MB stay in a CPU's cache, 1 GB fills a GPU


def knn_counts(queries: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, classes: int) -> Tensor:
    """[rows right at top 1, rows right at top 5, labelled rows] as int64 (3,) of a weighted k-nearest-neighbor vote.

    The k = min(20, n) rows of the bank (n, d) that are most similar to a query (m, d) by cosine vote for their classes
    with weight exp(similarity / 0.07) (Wu et al. 2018, section 3.4). `labels` (m,) may have -1, which does not count,
    `bank_labels` (n,) may not. Classes of equal votes rank as in `topk_counts`, the lower first. Computed in float32 at
    least, in blocks of queries, so that no matrix m x n is kept.
    """
    assert len(bank) == len(bank_labels) > 0 and bool((bank_labels >= 0).all()), "the bank holds labelled rows only"
    bank = _unit_rows(bank)
    counts = torch.zeros(3, dtype=torch.int64, device=queries.device)
    size = max(1, _BLOCK_ELEMENTS.get(queries.device.type, 2**21) // len(bank))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        similarities = _unit_rows(queries[block]) @ bank.T
        nearest, index = similarities.topk(min(NEIGHBORS, len(bank)), dim=1)
        # Less the highest possible similarity, which changes no order and keeps exponentials at most 1.
        weights = ((nearest - 1) / TEMPERATURE).exp()
        votes = weights.new_zeros(len(weights), classes)
        for neighbor in range(weights.shape[1]):  # one after the other, so that a GPU adds in a fixed order
            column = slice(neighbor, neighbor + 1)
            votes.scatter_add_(1, bank_labels[index[:, column]], weights[:, column])
        counts += topk_counts(votes, labels[block])
    return counts


def _unit_rows(x: Tensor) -> Tensor:
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)
