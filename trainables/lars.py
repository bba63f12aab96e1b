"""LARS (You et al. 2017) as SimCLR uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

TRUST_COEFFICIENT = 0.001  # official code, `eeta`


class LARS(torch.optim.Optimizer):
    """LARS with the learning rate inside the momentum; `lr` is set in every parameter group before each step.

    Per tensor w with gradient g: g <- g + weight_decay * w; v <- momentum * v + lr * trust * g; w <- w - v, where trust
    is 0.001 * |w| / |g| in groups with `trust_ratio`, and 1 elsewhere, where either norm is 0, or where it overflows.
    (Official code, "classic" form.) Groups come from `optimizer.parameter_groups`; parameters without a gradient stay
    as they are.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float = 0.9) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "trust_ratio": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update; `closure`, if given, recomputes the loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if all(p.is_cpu for p in parameters):
                # One tensor at a time stays in the cache, and one buffer spares fresh pages of memory for each.
                buffer = torch.empty(max((p.numel() for p in parameters), default=0), dtype=torch.float64)
                for parameter in parameters:
                    flat = buffer.view(parameter.dtype)[: parameter.numel()]
                    self._update([parameter], [flat.as_strided(parameter.shape, parameter.stride())], group)
            else:
                self._update(parameters, [torch.empty_like(p) for p in parameters], group)
        return loss

    def _update(self, parameters: list[Tensor], decayed: list[Tensor], group: dict[str, Any]) -> None:
        """One update of `parameters`; `decayed` is scratch memory of their shapes."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for out, gradient, parameter in zip(decayed, gradients, parameters, strict=True):
            torch.add(
                gradient, parameter, alpha=group["weight_decay"], out=out
            )  # one pass; no list form writes to `out`
        if group["trust_ratio"]:
            weight_norms, gradient_norms = norms(parameters), norms(decayed)
            trust = TRUST_COEFFICIENT * weight_norms / gradient_norms
            # Where a gradient is so tiny that the ratio overflows, it counts as 0, as every one below 1e-23 does in the
            # official code, whose squares are float32.
            trust = torch.where((weight_norms > 0) & (gradient_norms > 0) & trust.isfinite(), trust, 1.0)
            torch._foreach_mul_(decayed, (group["lr"] * trust).unbind())
        else:
            torch._foreach_mul_(decayed, group["lr"])
        velocities = [self._velocity(p) for p in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, decayed)
        torch._foreach_sub_(parameters, velocities)

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity: Tensor = state["velocity"]
        return velocity


def norms(tensors: list[Tensor]) -> Tensor:
    """Euclidean norms (n,) of n tensors that are dense in memory, summed in float64 and rounded to their type.

    A sum in float32 depends on its order in the last bits, and loses squares of numbers below 1e-22.
    """
    if tensors[0].is_cpu:
        exact = [_norm_on_cpu(tensor) for tensor in tensors]
    else:
        exact = list(torch._foreach_norm(tensors, 2, torch.float64))
    return torch.stack(exact).to(tensors[0].dtype)


def _norm_on_cpu(tensor: Tensor) -> Tensor:
    numbers = tensor.as_strided((tensor.numel(),), (1,))  # in the order of memory, whatever the layout
    norm: Tensor = torch.linalg.vector_norm(numbers, dtype=torch.float64)
    return norm
