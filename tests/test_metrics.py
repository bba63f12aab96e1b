from __future__ import annotations

import numpy as np
import torch

from trainables.metrics import topk_counts


def test_counts_agree_with_sorting_and_skip_unlabelled_rows() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((200, 12)), rng.integers(-1, 12, 200)
    ranked = np.argsort(-logits, 1)
    labelled = labels >= 0
    top1 = int((ranked[labelled, 0] == labels[labelled]).sum())
    top5 = int((ranked[labelled, :5] == labels[labelled, None]).any(1).sum())
    counts = topk_counts(torch.from_numpy(logits), torch.from_numpy(labels))
    assert counts.tolist() == [top1, top5, int(labelled.sum())]
    assert 0 < top1 < top5 < labelled.sum()


def test_with_three_classes_every_labelled_row_is_right_at_top_5() -> None:
    assert topk_counts(torch.randn(9, 3), torch.tensor([0, 1, 2] * 3))[1:].tolist() == [9, 9]


def test_equal_logits_favor_the_first_class_only() -> None:
    assert topk_counts(torch.zeros(10, 10), torch.arange(10)).tolist() == [1, 5, 10]


def test_nan_logits_are_wrong() -> None:
    assert topk_counts(torch.full((4, 3), torch.nan), torch.zeros(4, dtype=torch.long)).tolist() == [0, 0, 4]
