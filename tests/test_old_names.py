"""Models and checkpoints that were written before parameters had their present names are read as if written today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trials
from trainables.architecture import parse_architecture
from trainables.checkpoint import load_state, save_state
from trainables.classifier import load_model
from trainables.context import Context
from trainables.norm import GlobalBatchNorm
from trainables.spec import Memory, Stage
from trainables.stages import run_stage

OLD = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def as_before(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it was written before: batch norm's names, and how LARS's groups were told apart."""
    module = {}
    for name, value in state["module"].items():
        owner, _, last = name.rpartition(".")
        module[f"{owner}.{OLD[last]}" if f"{owner}.running_mean" in state["module"] else name] = value
    assert any(name.endswith(".gamma") for name in module)
    old = {**state, "module": module}
    if "optimizer" in state:
        groups = []
        for group in state["optimizer"]["param_groups"]:
            kept = {key: value for key, value in group.items() if key not in ("trust_ratio", "lr_scale", "name")}
            groups.append(kept | {"name": "of before", "adapt": group["trust_ratio"]})
        old["optimizer"] = {**state["optimizer"], "param_groups": groups}
    return old


@pytest.mark.parametrize("stage", ["linear", "finetune", "distill"])
def test_a_parent_of_before_gives_the_same_child(shards: str, parents: Path, tmp_path: Path, stage: Stage) -> None:
    expected, weights = trials.run(stage, shards, tmp_path / "now", parents)
    for parent in ("pretrain", "finetune"):
        save_state(str(tmp_path / f"before/{parent}/model.pt"), as_before(trials.model(parents / parent)))
    outcome, found = trials.run(stage, shards, tmp_path / "then", tmp_path / "before")
    assert outcome.metrics == expected.metrics and outcome.progress.history == expected.progress.history
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_checkpoint_of_before_goes_on_to_the_same_end(shards: str, tmp_path: Path) -> None:
    chosen = trials.settings("pretrain", {"weight_decay": 0.1}, memory=Memory(size=120, decay=0.5))
    assignment = trials.assignment(shards, chosen)
    whole = run_stage("pretrain", assignment, Context(str(tmp_path / "whole")))

    class GoneError(Exception):
        pass

    def gone(share: float) -> None:
        if share > 0.5:
            raise GoneError

    folder = tmp_path / "resumed"
    with pytest.raises(GoneError):
        run_stage("pretrain", assignment, Context(str(folder), checkpoint_seconds=0, report=gone))
    saved = load_state(f"{folder}/latest.pt")
    assert saved is not None and saved["progress"]["step"] >= 2
    save_state(f"{folder}/latest.pt", as_before(saved))
    resumed = run_stage("pretrain", assignment, Context(str(folder)))
    assert resumed.progress.sessions == 2 and resumed.progress.history == whole.progress.history
    one, other = trials.model(folder)["module"], trials.model(tmp_path / "whole")["module"]
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_torchs_batch_norm_takes_our_weights(parents: Path) -> None:
    model = load_model(str(parents / "pretrain/model.pt"), None)["module"]
    prefix = "encoder.stem.1."
    theirs = nn.BatchNorm2d(4)
    theirs.load_state_dict({name.removeprefix(prefix): v for name, v in model.items() if name.startswith(prefix)})
    ours = parse_architecture("r10w0.0625").build(8).stem[1]
    assert isinstance(ours, GlobalBatchNorm)
    ours.load_state_dict({name.removeprefix(prefix): v for name, v in model.items() if name.startswith(prefix)})
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
