"""The optimizer of a training, and which parameters it decays and scales."""

from __future__ import annotations

from typing import Any, assert_never

import torch
from torch import nn

from trainables.lars import LARS
from trainables.networks.encoder import Encoder
from trainables.spec import Optimization, Optimizer
from trainables.treatment import BIAS, Treatment, treatment_of

GROUPS = ("trust_ratio", "decayed", "not_decayed")  # in the order of saved states
ADAMW_EPSILON = 1e-8  # torch's, and Loshchilov and Hutter's


def build_optimizer(module: nn.Module, optimization: Optimization) -> torch.optim.Optimizer:
    """LARS, SGD with Nesterov momentum, or AdamW, over the module's trainable parameters.

    `set_rate` sets their learning rates before each step.
    """
    groups = parameter_groups(
        module, optimization.weight_decay, optimization.optimizer, layer_decay=optimization.layer_decay
    )
    momentum = optimization.momentum
    match optimization.optimizer:
        case "lars":
            return LARS(groups, lr=0.0, momentum=momentum)
        case "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
        case "adamw":
            return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, optimization.beta2), eps=ADAMW_EPSILON)
        case _:
            assert_never(optimization.optimizer)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter this learning rate, smaller in lower layers where there is layer-wise decay."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def parameter_groups(
    module: nn.Module, weight_decay: float, optimizer: Optimizer = "lars", *, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters of `module` by how they are treated, as the modules that own them say.

    "trust_ratio" (LARS only: decayed, and scaled by the trust ratio), "decayed" and "not_decayed", each for every
    "lr_scale" that there is. Empty groups are left out.
    """
    scales = _rate_scales(module, layer_decay)
    members: dict[tuple[str, float], list[nn.Parameter]] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                group = _group_of(treatment_of(owner, name, parameter), optimizer)
                members.setdefault((group, scales.get(parameter, 1.0)), []).append(parameter)
    return [
        {
            "name": name,
            "params": members[name, scale],
            "weight_decay": 0.0 if name == "not_decayed" else weight_decay,
            "trust_ratio": name == "trust_ratio",
            "lr_scale": scale,
        }
        for name, scale in sorted(members, key=lambda group: (GROUPS.index(group[0]), group[1]))
    ]


def _rate_scales(module: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """By what the learning rates of encoders' parameters are multiplied: `layer_decay` for each layer above them."""
    return {
        parameter: layer_decay ** (encoder.layers - encoder.layer_of(name))
        for encoder in module.modules()
        if isinstance(encoder, Encoder)
        for name, parameter in encoder.named_parameters()
    }


def _group_of(treatment: Treatment, optimizer: Optimizer) -> str:
    match optimizer:
        case "lars":
            assert treatment.decayed or not treatment.trust_ratio, "what has a trust ratio is decayed"
            scaled, decayed = treatment.trust_ratio, treatment.decayed
        case "sgd":
            scaled, decayed = False, treatment.decayed or treatment == BIAS
        case "adamw":
            scaled, decayed = False, treatment.decayed
        case _:
            assert_never(optimizer)
    return "trust_ratio" if scaled else "decayed" if decayed else "not_decayed"


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a saved state's momenta; how parameters are treated is still as the optimizer was built."""
    built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, built, strict=True):
        group.update(own)
