"""What ranks exchange: the world size, and a gather through which gradients flow back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process' rank in the default process group; 0 without one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather(x: Tensor) -> Tensor:
    """Tensors of one shape (n, ...) from every rank, stacked to (ranks, n, ...), without gradient."""
    gathered = x.new_empty((world_size(), *x.shape))
    dist.all_gather_into_tensor(gathered.flatten(0, 1), x.detach().contiguous())  # gloo wants them end to end
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on this rank's rows: their gradient is the sum over ranks.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank()]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Tensors of one shape (n, ...) from every rank, stacked to (ranks, n, ...).

    The gradient that flows back into `x` is the sum over ranks of the gradients of their own losses.
    """
    if world_size() == 1:
        return x[None]
    gathered: Tensor = _GatherWithGradient.apply(x)
    return gathered


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, without gradient; a new tensor."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total
