"""Batch norm over the global batch: the number of workers never changes a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.collectives import all_gather, sum_over_ranks, world_size
from trainables.moments import combined, dense, gradient_sums, like, moments
from trainables.treatment import Treatment

EPSILON = 1e-5  # official code
BATCH_NORM = Treatment("batch norm", decayed=False, trust_ratio=False)
MOMENTUM = 0.9  # share of the old moving statistics that stays at each update, official code


class GlobalBatchNorm(nn.Module):
    """Batch norm of (n, c) or (n, c, ...) over all ranks' rows; moving statistics with the biased variance by default.

    Training uses exact moments of the global batch (rows per rank may differ but not be 0) and updates the moving ones,
    0.9 old + 0.1 new; evaluation uses the moving ones. Statistics and parameters keep the module's dtype (float32 under
    autocast); the output has the input's dtype and memory format. `bias` off leaves that parameter out; `zero_weight`
    starts the weight at 0, as the last batch norm of a residual branch (Goyal et al. 2017). `moving_share` and
    `unbiased_moving_variance` change what becomes of the moving statistics, never the output of training.
    """

    running_mean: Tensor
    running_var: Tensor
    moving_share = MOMENTUM
    unbiased_moving_variance = False

    def __init__(self, num_features: int, *, bias: bool = True, zero_weight: bool = False) -> None:
        super().__init__()
        initial = torch.zeros if zero_weight else torch.ones
        self.weight = nn.Parameter(initial(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def treatment(self, name: str) -> Treatment:
        return BATCH_NORM

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` (n, c) or (n, c, height, width)."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, EPSILON)
        y: Tensor
        count: Tensor | int
        if x.is_cuda and world_size() == 1:  # its kernel is exact, and fused
            y, mean, inverse_std = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, EPSILON)
            count = x.numel() // x.shape[1]
            with torch.no_grad():
                variance = inverse_std.pow(-2).sub_(EPSILON)
        else:
            y, mean, variance, count = _ExactBatchNorm.apply(x, self.weight, self.bias)
        if self.moving_share < 1:
            self._move(mean, variance, count)
        return y

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, count: Tensor | int) -> None:
        """Move the statistics towards a batch's mean and biased variance (c,), of `count` values each."""
        if self.unbiased_moving_variance:
            others = count - 1
            variance = variance * (count / (others.clamp_min(1) if isinstance(others, Tensor) else max(others, 1)))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), 1 - self.moving_share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), 1 - self.moving_share)


def set_moving_variance(module: nn.Module, kind: Literal["biased", "unbiased"]) -> None:
    """Choose which variance the batch norms below `module` keep for evaluation: times n / (n - 1) or not.

    Biased: the official code with global batch norm, and TensorFlow 2's always. Unbiased: TensorFlow 1's fused local
    one, and torch's.
    """
    for norm in _norms(module):
        norm.unbiased_moving_variance = kind == "unbiased"


@contextmanager
def moving_share(module: nn.Module, share: float) -> Iterator[None]:
    """Within it, batch norms below `module` keep this share of their moving statistics at each pass; 1: all of them."""
    norms = _norms(module)
    before = [norm.moving_share for norm in norms]
    for norm in norms:
        norm.moving_share = share
    try:
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.moving_share = old


def _norms(module: nn.Module) -> list[GlobalBatchNorm]:
    return [norm for norm in module.modules() if isinstance(norm, GlobalBatchNorm)]


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (c,), biased variance (c,) and count (1,) over all ranks of a dense `x` (n, c, ...), in one exchange.

    Each rank sends its mean, variance and count; they combine as in Chan et al. 1979, without the cancellation of sums
    of squares. On a CPU all are float64.
    """
    if x.is_cpu:
        mean, variance = moments(x)
    else:
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, dim=[d for d in range(x.dim()) if d != 1], correction=0)
    count = torch.full_like(mean[:1], x.numel() // x.shape[1])
    if world_size() == 1:
        return mean, variance, count
    gathered = all_gather(torch.cat([mean, variance, count]))
    means, variances, counts = torch.split(gathered, [len(mean), len(mean), 1], dim=1)
    total = counts.sum(0)
    shares = counts / total
    global_mean = (shares * means).sum(0)
    return global_mean, (shares * (variances + (means - global_mean) ** 2)).sum(0), total


def _gradient_sums(dy: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """Sums (2, c) over this rank's rows of dy * normalized x and of dy."""
    if x.is_cpu:
        return torch.stack(gradient_sums(dy, x, mean, inverse_std))
    # The kernel of evaluation mode gives both. It takes a variance, and adds 0 to it here.
    _, products, totals = torch.ops.aten.native_batch_norm_backward(
        dy, x, torch.ones_like(mean), mean, inverse_std.pow(-2), None, None, False, 0.0, [False, True, True]
    )
    return torch.stack([products, totals])


class _ExactBatchNorm(torch.autograd.Function):
    """(x, weight, bias) -> normalized x, global mean, global variance, global count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = dense(x)
        mean, variance, count = _global_moments(x)
        y = torch.native_batch_norm(
            x, weight, bias, mean.to(weight.dtype), variance.to(weight.dtype), False, 0.0, EPSILON
        )[0]
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_statistics: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        dy = like(dy, x)
        inverse_std = (variance + EPSILON).rsqrt()
        of_rank = _gradient_sums(dy, x, mean.to(weight.dtype), inverse_std)
        sums = sum_over_ranks(of_rank)
        # dx = scale * (dy - mean(dy) - xhat * mean(dy * xhat)): Ioffe and Szegedy 2015, section 3
        scale = weight * inverse_std
        slope = -scale * inverse_std * sums[0] / count
        offset = -scale * sums[1] / count - slope * mean
        scale, slope, offset = (of_channels.to(weight.dtype) for of_channels in (scale, slope, offset))
        dx = _combined(dy, scale, x, slope, offset)
        dweight, dbias = of_rank.to(weight.dtype)
        needs_weight, needs_bias = ctx.needs_input_grad[1:]
        return dx, dweight if needs_weight else None, dbias if needs_bias else None


def _combined(dy: Tensor, scale: Tensor, x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """scale * dy + slope * x + offset by channels (c,), in the type of `x`."""
    if x.is_cpu:
        return combined(dy, scale, x, slope, offset)
    shape = [1, -1] + [1] * (x.dim() - 2)
    dx = torch.addcmul(offset.view(shape), x, slope.view(shape)).addcmul_(dy, scale.view(shape))
    return dx.to(x.dtype)
