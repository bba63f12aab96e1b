from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.batches import Batch
from datasets.stream import eval_batches
from digit_shards import LABELLED, digits
from gloo import run_ranks
from trainables.collapse import effective_rank
from trainables.features import Features, encode, gather_features
from trainables.protocol import ProtocolError


class Encoder(nn.Module):
    """Batch norm of pixels and a projection to three features: in training mode it would depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, eps=0.0, momentum=0.5, dtype=torch.float64)
        self.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(64, 3))))

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.flatten(1)) @ self.weight  # type: ignore[no-any-return]


def _view(batch: Batch) -> Tensor:
    return batch.images[:, 0].double() / 255


def _encode(shards: str, encoder: nn.Module, rows: int) -> Features:
    batches = eval_batches(shards, split="train", rows=LABELLED, per_worker_batch_size=48, max_side=8)
    return encode(encoder, batches, _view, rows)


@pytest.mark.parametrize("training", [True, False])
def test_every_row_is_encoded_once_in_order_and_in_inference_mode(shards: str, training: bool) -> None:
    encoder = Encoder().train(training)
    found = _encode(shards, encoder, LABELLED)
    rows = digits()
    pixels = rows.pixels[:LABELLED].reshape(LABELLED, 64) / 255
    assert found.features.dtype == torch.float64
    np.testing.assert_allclose(found.features.numpy(), pixels @ encoder.weight.detach().numpy(), rtol=1e-12)
    assert found.ids.tolist() == rows.ids[:LABELLED].tolist()
    assert found.labels.tolist() == rows.labels[:LABELLED].tolist()
    assert encoder.training == training and encoder.norm.num_batches_tracked == 0


def test_a_classifier_can_be_trained_on_the_features(shards: str) -> None:
    features = _encode(shards, Encoder(), LABELLED).features
    assert not features.requires_grad
    classifier = nn.Linear(3, 10, dtype=torch.float64)
    classifier(features).sum().backward()
    assert classifier.weight.grad is not None
    torch.testing.assert_close(classifier.weight.grad[0], features.sum(0))


@pytest.mark.parametrize("rows", [LABELLED - 1, LABELLED + 1])
def test_missing_and_surplus_rows_fail_the_trial(shards: str, rows: int) -> None:
    encoder = Encoder()
    with pytest.raises(ProtocolError, match=f"of {LABELLED}.* {rows} rows"):
        _encode(shards, encoder, rows)
    assert encoder.training


def _numbered(start: int, stop: int, d: int = 5) -> Features:
    """Rows `start` to `stop` of features with a mean, of which the first ones are nearly alike."""
    rows = np.random.default_rng(0).standard_normal((20, d)) * np.arange(20)[:, None] / 8 + 1
    width = d if start < stop else 0
    ids = torch.arange(start, stop)
    return Features(ids + 100, torch.from_numpy(rows[start:stop, :width]), ids % 4 - 1)


def _distributed(rank: int) -> dict[str, Any]:
    gathered = {rows: gather_features(_numbered(rank * rows // 2, (rank + 1) * rows // 2), rows) for rows in (1, 8, 13)}
    try:
        gather_features(_numbered(0, 4), 7)
        refused = False
    except ProtocolError:
        refused = True
    parts = [slice(0, 9), slice(9, 20)]
    ranks = [effective_rank(_numbered(0, 20, d).features[parts[rank]]) for d in (5, 30)]
    return {"gathered": {rows: vars(found) for rows, found in gathered.items()}, "refused": refused, "ranks": ranks}


def test_two_ranks_hold_what_one_process_would() -> None:
    for found in run_ranks(_distributed, 2):
        for rows, gathered in found["gathered"].items():
            for name, part in vars(_numbered(0, rows)).items():
                assert torch.equal(gathered[name], part), (rows, name)
        assert found["refused"]
        alone = [effective_rank(_numbered(0, 20, d).features) for d in (5, 30)]
        assert found["ranks"] == pytest.approx(alone, rel=1e-5)


def test_one_process_keeps_its_features_and_checks_their_number() -> None:
    features = _numbered(0, 8)
    assert gather_features(features, 8) is features
    with pytest.raises(ProtocolError, match="8 rows"):
        gather_features(features, 9)
