from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trials
from gloo import run_ranks
from trainables.checkpoint import State
from trainables.context import Context
from trainables.heads import ProjectionHead
from trainables.losses import nt_xent
from trainables.micro_batches import backward_in_parts, cached_outputs
from trainables.norm import GlobalBatchNorm
from trainables.spec import Memory, Settings, Stage
from trainables.stages import run_stage

ROWS, WIDTH = 24, 6


def _inputs() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((ROWS, WIDTH)) + 1)


def _uncoupled() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 4))


def _normalizing() -> nn.Module:
    """Two layers of which every hidden one is followed by batch norm, with kernels of a size that matters."""
    head = ProjectionHead(WIDTH, 3, 4)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return head


class Probed(nn.Module):
    """A network with a second output, which the loss does not read, as a pretraining's features are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.network(x)
        return z, z.detach() * 2


def _loss(z: Tensor) -> Tensor:
    z1, z2 = z.chunk(2)
    return nt_xent(z1, z2, 0.3)[0]


def _gradients(network: nn.Module) -> list[Tensor]:
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert len(gradients) == len([*network.parameters()]) and all(gradient.any() for gradient in gradients)
    return gradients


def _whole(network: nn.Module, parts: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs, loss and gradients by plain autograd through the outputs of all parts, each row at its place."""
    network, inputs = copy.deepcopy(network), _inputs()
    made = [network(inputs[part::parts]) for part in range(parts)]
    z = torch.stack([made[row % parts][row // parts] for row in range(ROWS)])
    loss = _loss(z)
    loss.backward()  # type: ignore[no-untyped-call]
    return z.detach(), loss.detach(), _gradients(network)


def _in_parts(network: nn.Module, parts: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same as the trainer makes it, the network having a second output."""
    probed = Probed(copy.deepcopy(network))
    outputs = cached_outputs(probed, _inputs(), parts)
    assert torch.equal(outputs[1], 2 * outputs[0])
    loss = _loss(outputs[0])
    loss.backward()  # type: ignore[no-untyped-call]
    backward_in_parts(probed, _inputs(), [output.grad for output in outputs], parts, nullcontext)
    return outputs[0].detach(), loss.detach(), _gradients(probed.network)


@pytest.mark.parametrize("parts", [2, 3, 12])
@pytest.mark.parametrize("kind", ["uncoupled", "evaluating"])
def test_parts_of_rows_that_do_not_meet_have_the_gradient_of_one_pass(kind: str, parts: int) -> None:
    torch.manual_seed(0)
    network = (_uncoupled() if kind == "uncoupled" else _normalizing().eval()).double()
    torch.testing.assert_close(_in_parts(network, parts), _whole(network, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("parts", [2, 3])
def test_each_part_is_normalized_by_its_own_moments(parts: int) -> None:
    torch.manual_seed(0)
    network = _normalizing().double()
    found = _in_parts(network, parts)
    torch.testing.assert_close(found, _whole(network, parts), atol=1e-12, rtol=0)
    assert (found[0] - _whole(network, 1)[0]).abs().max() > 0.01


@pytest.mark.parametrize("parts", [2, 4])
def test_moving_statistics_of_a_step_keep_nine_tenths_of_the_old_ones(parts: int) -> None:
    norm, inputs = GlobalBatchNorm(WIDTH).double(), _inputs()
    norm.running_mean.fill_(2.0)
    (outputs,) = cached_outputs(norm, inputs, parts)
    assert (norm.running_mean == 2).all() and (norm.running_var == 1).all(), "the first pass leaves no trace"
    backward_in_parts(norm, inputs, [torch.ones_like(outputs)], parts, nullcontext)
    stays = 0.9 ** (1 / parts)
    for name, old, moment in (("running_mean", 2.0, np.mean), ("running_var", 1.0, np.var)):
        expected = 0.9 * old
        for part in range(parts):
            expected = expected + (1 - stays) * stays ** (parts - 1 - part) * moment(inputs.numpy()[part::parts], 0)
        np.testing.assert_allclose(norm.state_dict()[name].numpy(), expected, rtol=0, atol=1e-12)
    before = norm.running_mean.clone()
    norm(inputs)
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * inputs.mean(0), atol=1e-12, rtol=0)


REMEMBERING: dict[str, Any] = {
    "memory": Memory(size=330, decay=0.9),
    "micro_batches": 2,
}  # 200 keys a step: the queue begins anew
RECIPES: dict[Stage, dict[str, Any]] = {
    "pretrain": REMEMBERING,
    "finetune": {"kept_head": "frozen", "head_layer": 2, "micro_batches": 5, "moving_variance": "unbiased"},
    "distill": {"micro_batches": 2, "moving_variance": "unbiased"},
}


def _three_steps(stage: Stage) -> Settings:
    batch = 20 if stage == "finetune" else 100
    return trials.settings(stage, {"global_batch_size": batch, "epochs": 1, "precision": "float64"}, **RECIPES[stage])


@dataclass
class Keeping(Context):
    """Keeps the trained model in memory, on every rank."""

    kept: State = field(default_factory=dict)

    def save_model(self, state: State) -> None:
        self.kept = state


def _train(rank: int, world_size: int, shards: str, parents: Path, folder: Path) -> dict[str, Any]:
    """History, metrics and weights of the stages with batch norm, as one rank has them."""
    found: dict[str, Any] = {}
    for stage in RECIPES:
        context = Keeping(f"{folder}/{stage}-{world_size}", rank, world_size)
        assignment = trials.assignment(shards, _three_steps(stage), trials.parent_of(stage, parents))
        outcome = run_stage(stage, assignment, context)
        assert outcome.progress.step == 3
        found[stage] = {
            "history": [dict(sorted(row.items())) for row in outcome.progress.history],
            "metrics": outcome.metrics,
            "weights": context.kept["module"],
        }
    return found


def test_two_ranks_with_memory_micro_batches_and_frozen_head_train_the_weights_of_one_process(
    shards: str, parents: Path, tmp_path: Path
) -> None:
    """Memory, micro-batches, a frozen head and the unbiased moving variance at once; to 1e-10 in float64."""
    one = _train(0, 1, shards, parents, tmp_path)
    for rank in run_ranks(_train, 2, 2, shards, parents, tmp_path):
        for stage, expected in one.items():
            found = rank[stage]
            torch.testing.assert_close(found["weights"], expected["weights"], atol=1e-10, rtol=0)
            rows = zip([*found["history"], found["metrics"]], [*expected["history"], expected["metrics"]], strict=True)
            for row, expected_row in rows:
                assert row.keys() == expected_row.keys()
                for name, value in row.items():
                    assert value == pytest.approx(expected_row[name], rel=1e-9, abs=1e-9), name


class InterruptionError(Exception):
    """The worker is gone."""


def test_pretraining_with_memory_in_micro_batches_continues_bit_for_bit(shards: str, tmp_path: Path) -> None:
    assignment = trials.assignment(
        shards, trials.settings("pretrain", **{**REMEMBERING, "memory": Memory(size=370, decay=0.9)})
    )
    whole = run_stage("pretrain", assignment, Context(str(tmp_path / "whole")))

    def die(done: float) -> None:
        if done == 4 / 6:
            raise InterruptionError

    # The checkpoint is that of step 3: 480 keys were made and the queue, which holds 370, has begun anew.
    with pytest.raises(InterruptionError):
        run_stage("pretrain", assignment, Context(str(tmp_path / "resumed"), checkpoint_seconds=0, report=die))
    resumed = run_stage("pretrain", assignment, Context(str(tmp_path / "resumed")))
    assert resumed.progress.sessions == 2 and resumed.progress.history == whole.progress.history
    assert resumed.metrics == whole.metrics
    weights, expected = (trials.model(tmp_path / name)["module"] for name in ("resumed", "whole"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
