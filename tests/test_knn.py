from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import reference
from trainables import knn
from trainables.knn import knn_counts

CLASSES = 12


def _clusters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths in overlapping clusters (n, 6), and their labels."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).standard_normal((CLASSES, 6))
    labels = rng.integers(0, CLASSES, n)
    rows = (centers[labels] + rng.standard_normal((n, 6))) * rng.uniform(0.1, 10, (n, 1))
    return torch.from_numpy(rows), torch.from_numpy(labels)


def _right(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> list[int]:
    """Counts at top 1 and top 5 by sorting scores (n, classes), the lower class first."""
    ranked = np.argsort(-scores, 1, kind="stable")
    labelled = labels >= 0
    return [int((ranked[:, :k] == labels[:, None]).any(1)[labelled].sum()) for k in (1, 5)] + [int(labelled.sum())]


@pytest.mark.parametrize("stored", [7, 60, 300])
def test_neighbors_vote_by_their_similarity(stored: int) -> None:
    bank, bank_labels = _clusters(stored, 1)
    queries, labels = _clusters(250, 2)
    labels[::10] = -1
    votes = [
        reference.knn_votes(query, bank.numpy(), bank_labels.numpy(), min(20, stored), CLASSES)
        for query in queries.numpy()
    ]
    expected = _right(np.array(votes), labels.numpy())
    assert knn_counts(queries, labels, bank, bank_labels, CLASSES).tolist() == expected
    assert expected[0] < expected[1] < expected[2] == 225


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (bank, bank_labels), (queries, labels) = _clusters(60, 1), _clusters(50, 2)
    whole = knn_counts(queries, labels, bank, bank_labels, CLASSES)
    for rows in (1, 7, 50):
        monkeypatch.setitem(knn._BLOCK_ELEMENTS, "cpu", rows * 60)
        assert torch.equal(knn_counts(queries, labels, bank, bank_labels, CLASSES), whole)


def test_counts_on_digits_are_those_of_scikit_learn() -> None:
    digits = load_digits()
    pixels, labels = digits.data - digits.data.mean(0), digits.target.astype(np.int64)
    bank, queries = slice(0, 600), slice(600, None)
    judge = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    scores = judge.fit(pixels[bank], labels[bank]).predict_proba(pixels[queries])
    tensors = [torch.from_numpy(part) for part in (pixels[queries], labels[queries], pixels[bank], labels[bank])]
    counts = knn_counts(tensors[0], tensors[1], tensors[2], tensors[3], 10).tolist()
    assert counts == _right(scores, labels[queries])
    assert 0.9 < counts[0] / counts[2] < 1


def test_equal_votes_favor_the_lower_class() -> None:
    bank, queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    for bank_labels in ([2, 1], [1, 2]):
        counts = knn_counts(queries, torch.tensor([1, 2, 1]), bank, torch.tensor(bank_labels), 4)
        assert counts.tolist() == [2, 3, 3]


def test_a_bank_without_labels_is_refused() -> None:
    rows = torch.eye(3)
    with pytest.raises(AssertionError, match="labelled rows only"):
        knn_counts(rows, torch.tensor([0, 1, 2]), rows, torch.tensor([0, -1, 1]), 3)
