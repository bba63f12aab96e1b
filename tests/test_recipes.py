"""Settings of the stages that train an encoder, as they act in whole trainings."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
import trials
from digit_shards import LABELLED, TRAIN, digits
from trainables.architecture import parse_architecture
from trainables.finetune import build
from trainables.linear import load_encoder
from trainables.pretrain import Pretraining
from trainables.spec import FinetuneSettings, Memory, Stage

State = dict[str, Tensor]


def test_frozen_head_keeps_its_weights_and_normalizes_by_batches(shards: str, parents: Path, tmp_path: Path) -> None:
    chosen = trials.settings("finetune", {"weight_decay": 0.1}, kept_head="frozen", head_layer=2)
    outcome, weights = trials.run("finetune", shards, tmp_path, parents, chosen)
    parent = trials.model(parents / "pretrain")["module"]
    head = [name for name in weights if name.startswith("head.")]
    kept = [name for name in head if "running" not in name]
    assert len(kept) == 2 * 3 and len(head) == 2 * 5  # kernel, weight, bias and two moments of the norm
    assert all(torch.equal(weights[name], parent[name]) for name in kept)
    moved = [name for name in weights if name not in kept and not name.startswith("classifier.")]
    assert all(not torch.equal(weights[name], parent[name]) for name in moved)
    assert weights["classifier.weight"].any()
    assert outcome.parameters == 19_596 + 330, "parameters are those that are trained"


def test_head_is_trained_unless_asked_otherwise() -> None:
    chosen = trials.settings("finetune")
    assert isinstance(chosen, FinetuneSettings)
    classifier = build(parse_architecture("r10w0.0625"), 8, 10, 3, chosen)
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def _clone(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("batch_keys", ["momentum", "encoder"])
def test_pretraining_remembers(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_keys: Any) -> None:
    """The loss of each step is NumPy's for a ring of keys; the momentum network averages the steps' weights."""
    calls: list[dict[str, Any]] = []
    compute = Pretraining.loss

    def noting(self: Pretraining, outputs: tuple[Tensor, ...], labels: Tensor, keys: Tensor) -> Any:
        network = torch.nn.Sequential(self.encoder, self.head)
        assert self.memory.network is not None
        z = torch.stack(outputs[0].detach().chunk(2)).clone()
        ours, theirs = _clone(network.state_dict()), _clone(self.memory.network.state_dict())
        calls.append({"z": z, "keys": keys.clone(), "network": ours, "momentum": theirs})
        return compute(self, outputs, labels, keys)

    monkeypatch.setattr(Pretraining, "loss", noting)
    memory = Memory(size=90, decay=0.9, batch_keys=batch_keys)  # each step has 80 new keys
    chosen = trials.settings(
        "pretrain", {"global_batch_size": 40, "epochs": 1, "precision": "float64"}, memory=memory, temperature=0.5
    )
    outcome, weights = trials.run("pretrain", shards, tmp_path, tmp_path, chosen)
    assert not any(name.startswith("memory") for name in weights), "the memory is of no use to children"

    ring = reference.Ring(90)
    for call, row in zip(calls, outcome.progress.history, strict=True):
        z, keys = call["z"].numpy(), call["keys"].numpy()
        batch = keys if batch_keys == "momentum" else z
        loss, _ = reference.nt_xent_with_memory((z[0], z[1]), (batch[0], batch[1]), np.array(ring.keys), 0.5)
        assert row["contrastive_loss"] == pytest.approx(loss, rel=1e-9)
        for key in (*keys[0], *keys[1]):
            ring.put(key)

    for before, call in itertools.pairwise(calls):
        for name, value in call["momentum"].items():
            # A step's forward pass, which moves the moments, is between making its keys and its loss.
            network = before["network"] if "running" in name else call["network"]
            expected = network[name] if "running" in name else 0.9 * before["momentum"][name] + 0.1 * network[name]
            torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-12)
    first = calls[0]
    trained = [name for name in first["network"] if "running" not in name]
    assert all(torch.equal(first["momentum"][name], first["network"][name]) for name in trained)
    torch.testing.assert_close(first["keys"], first["z"], atol=1e-12, rtol=0)


def test_nearest_neighbors_of_the_trained_features_classify_the_test_split(shards: str, tmp_path: Path) -> None:
    outcome, weights = trials.run("pretrain", shards, tmp_path, tmp_path)
    encoder = parse_architecture("r10w0.0625").build(8)
    load_encoder(encoder, {"module": weights})
    rows = digits()
    images = torch.from_numpy(rows.pixels)[:, None].expand(-1, 3, -1, -1).float() / 255
    with torch.no_grad():
        features = encoder.eval()(images).double().numpy()
    bank, bank_labels = features[:LABELLED], rows.labels[:LABELLED].astype(np.int64)
    votes = [reference.knn_votes(query, bank, bank_labels, 20, 10) for query in features[TRAIN:]]
    right = np.array([vote.argmax() for vote in votes]) == rows.labels[TRAIN:]
    assert outcome.metrics["knn_top1"] == right.mean() > 0.2


COUNTS = {"pretrain": 160, "finetune": 20, "distill": 80}  # rows of a batch, which batch norm of a head layer counts


@pytest.mark.parametrize("stage", COUNTS)
def test_unbiased_moving_variance_changes_what_is_kept_and_nothing_else(
    shards: str, parents: Path, tmp_path: Path, stage: Stage
) -> None:
    """Of T steps: (unbiased - 0.9^T first) / (biased - 0.9^T first) = n / (n - 1) for n values in each batch."""
    found = {}
    for kind in ("biased", "unbiased"):
        chosen = trials.settings(stage, {"precision": "float64"}, moving_variance=kind)
        outcome, found[kind] = trials.run(stage, shards, tmp_path / kind, parents, chosen)
    old = 0.9**outcome.progress.step
    pixels = {"stem.0": 64, "stem.1": 64, "head.layers.0.1": 1}
    parent: State = trials.model(parents / "pretrain")["module"]
    checked = 0
    for name, biased in found["biased"].items():
        if not name.endswith("running_var"):
            assert torch.equal(found["unbiased"][name], biased), name
            continue
        first = parent[name].double() if stage == "finetune" else torch.ones_like(biased)
        ratios = (found["unbiased"][name] - old * first) / (biased - old * first)
        n = 1 / (1 - 1 / ratios)
        layer = name.removesuffix(".running_var").removeprefix("encoder.")
        if layer in pixels:
            torch.testing.assert_close(n, torch.full_like(n, pixels[layer] * COUNTS[stage]), rtol=1e-6, atol=0)
            checked += 1
        assert ((n / COUNTS[stage]).round() >= 1).all() and math.isclose(n.min().item(), n.max().item(), rel_tol=1e-6)
    assert checked == (1 if stage == "distill" else 2)
