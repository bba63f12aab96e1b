from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reference
import trials
from trainables.architecture import parse_architecture
from trainables.heads import LinearClassifier, ProjectionHead
from trainables.lars import LARS, norms
from trainables.optimizer import parameter_groups
from trainables.supervised import build

SHAPES = {"scaled": (4, 3, 3, 3), "zero": (5, 4), "classifier": (3, 5), "bias": (3,)}


def _groups(weights: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": [weights["scaled"], weights["zero"]], "weight_decay": 1e-2, "trust_ratio": True},
        {"params": [weights["classifier"]], "weight_decay": 1e-2, "trust_ratio": False},
        {"params": [weights["bias"]], "weight_decay": 0.0, "trust_ratio": False},
    ]


def _step(optimizer: LARS, gradients: dict[str, np.ndarray[Any, Any]], weights: dict[str, Any], lr: float) -> None:
    for name, parameter in weights.items():
        parameter.grad = torch.from_numpy(gradients[name].copy())
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def test_five_steps_agree_with_the_reference_and_survive_a_restart() -> None:
    rng = np.random.default_rng(0)
    expected = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    expected["zero"][:] = 0
    velocity = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    weights = {name: nn.Parameter(torch.from_numpy(w.copy())) for name, w in expected.items()}
    optimizer = LARS(_groups(weights), lr=0.0)
    for step, lr in enumerate([0.0, 0.5, 4.8, 1.0, 0.1]):
        gradients = {name: rng.standard_normal(shape) * (step != 2) for name, shape in SHAPES.items()}
        if step == 3:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = LARS(_groups(weights), lr=0.0)
            optimizer.load_state_dict(state)
        _step(optimizer, gradients, weights, lr)
        for name in SHAPES:
            decay, adapt = (0.0 if name == "bias" else 1e-2), name in ("scaled", "zero")
            expected[name], velocity[name] = reference.lars_step(
                expected[name], gradients[name], velocity[name], lr, momentum=0.9, decay=decay, adapt=adapt
            )
            np.testing.assert_allclose(weights[name].detach().numpy(), expected[name], atol=1e-13)


def test_parameters_without_gradient_and_gradients_themselves_are_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.full((3, 3), 2.0)
    LARS([{"params": [used, unused], "weight_decay": 0.1}], lr=1.0).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert torch.equal(used.grad, torch.full((3, 3), 2.0))
    assert (used != 1).all()


def test_channels_last_kernels_step_like_contiguous_ones() -> None:
    torch.manual_seed(0)
    w, g = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(w.clone(memory_format=memory_format))
        parameter.grad = g.clone()
        LARS([{"params": [parameter], "weight_decay": 0.1}], lr=1.0).step()
        results.append(parameter.detach())
    torch.testing.assert_close(results[0], results[1], atol=1e-7, rtol=0)


@pytest.mark.parametrize("size", [1, 700, 2**16 - 1, 2**16, 3 * 2**20 + 5])
def test_norms_of_large_tensors_are_right_to_the_last_bit(size: int) -> None:
    numbers = np.random.default_rng(size).random((2, size), np.float32) + 1e-3
    exact = np.sqrt((numbers.astype(float) ** 2).sum(1)).astype(np.float32)
    assert norms([*torch.from_numpy(numbers)]).numpy().tolist() == exact.tolist()


@pytest.mark.parametrize("size", [1e-45, 1e-43, 1e-40, 1e-30])
def test_a_tiny_gradient_never_makes_weights_infinite(size: float) -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    weight.grad = torch.full((3, 3), size)
    LARS([{"params": [weight], "weight_decay": 0.0}], lr=1.0).step()
    change = (1 - weight.detach()).abs().max().item()
    assert change <= 0.001 * (1 + 1e-2), "no update is larger than the trust coefficient's share of the weights"


def test_norms_of_tiny_numbers_are_right() -> None:
    numbers = torch.full((600_000,), 1e-24)
    assert norms([numbers]).item() == pytest.approx(1e-24 * 600_000**0.5, rel=1e-6)


def test_the_norm_of_a_channels_last_kernel_is_that_of_its_numbers() -> None:
    kernel = torch.rand(64, 128, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert norms([kernel]).item() == pytest.approx(np.linalg.norm(kernel.numpy().ravel()), rel=1e-14)


@pytest.fixture(scope="module")
def model() -> nn.ModuleDict:
    encoder = parse_architecture("r14w0.0625sk").build(16)
    head = ProjectionHead(encoder.feature_dim, 2, 8)
    return nn.ModuleDict({"encoder": encoder, "head": head, "probe": LinearClassifier(encoder.feature_dim, 5)})


def test_lars_decays_kernels_and_gives_all_but_the_classifier_a_trust_ratio(model: nn.ModuleDict) -> None:
    groups = {group["name"]: group for group in parameter_groups(model, 1e-4, "lars")}
    assert list(groups) == ["trust_ratio", "decayed", "not_decayed"]
    assert {name: (g["weight_decay"], g["trust_ratio"]) for name, g in groups.items()} == {
        "trust_ratio": (1e-4, True),
        "decayed": (1e-4, False),
        "not_decayed": (0.0, False),
    }
    assert [tuple(p.shape) for p in groups["decayed"]["params"]] == [(5, model["encoder"].feature_dim)]
    assert all(p.dim() in (2, 4) for p in groups["trust_ratio"]["params"])
    assert all(p.dim() == 1 for p in groups["not_decayed"]["params"])
    assert sum(len(g["params"]) for g in groups.values()) == len(list(model.parameters()))


def test_in_distillation_the_classifier_has_a_trust_ratio_too() -> None:
    for stage, expected in (("distill", "trust_ratio"), ("supervised", "decayed")):
        student = build(parse_architecture("r10w0.0625"), 8, 5, trials.settings(stage))
        groups = {g["name"]: g["params"] for g in parameter_groups(student, 1e-4)}
        assert any(p is student.classifier.weight for p in groups[expected])


def test_sgd_groups_decay_everything_but_batch_norm(model: nn.ModuleDict) -> None:
    groups = {g["name"]: g for g in parameter_groups(model, 1e-6, "sgd")}
    assert (groups["decayed"]["weight_decay"], groups["not_decayed"]["weight_decay"]) == (1e-6, 0.0)
    assert any(p is model["probe"].bias for p in groups["decayed"]["params"])
    kernels_and_bias = [p for p in model.parameters() if p.dim() > 1 or p is model["probe"].bias]
    assert len(groups["decayed"]["params"]) == len(kernels_and_bias)


def test_frozen_parameters_are_in_no_group() -> None:
    classifier = LinearClassifier(4, 3)
    classifier.weight.requires_grad_(False)
    assert [g["name"] for g in parameter_groups(classifier, 0.1)] == ["not_decayed"]


def test_torch_sgd_is_the_nesterov_momentum_of_the_official_code() -> None:
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal(4), np.zeros(4)
    parameter = nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = torch.optim.SGD([parameter], lr=0.0, momentum=0.9, nesterov=True, weight_decay=0.1)
    for lr in (0.1, 0.5, 0.2):
        gradient = rng.standard_normal(4)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        gradient = gradient + 0.1 * w
        v = 0.9 * v + gradient
        w = w - lr * (gradient + 0.9 * v)
        np.testing.assert_allclose(parameter.detach().numpy(), w, atol=1e-14)
