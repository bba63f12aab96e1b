"""Contrastive, distillation and classification losses; each rank's value, whose mean over ranks is the global loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.collectives import gather_with_gradient, rank, sum_over_ranks, world_size

UNLABELLED = -1
_BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}  # similarities at a time: 8 MB stay in a CPU's cache, 1 GB fills a GPU


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    *,
    keys: Tensor | None = None,
    queue: Tensor | None = None,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """NT-Xent (Eq. 1) of two views' projections z1 and z2 (n, d), row i of both from one image, over all ranks' rows.

    Rows are normalized to unit length; each is classified among all ranks' keys of both views but its own one of the
    same view. `keys` (2, n, d) are a momentum encoder's for the same two views, normalized here and without gradient;
    without them, the rows themselves are the keys. `queue` (q, d) holds unit keys of past batches, the same on every
    rank: further negatives of every row, without gradient (MoCo, He et al. 2020; section 3.1). Without `normalize`,
    rows, keys and queue keep the lengths that they have (official code, `hidden_norm` off).

    Returns the sum of the two views' mean losses, as in the official code (twice the paper's mean over 2N rows;
    2 ln(2N + q - 1) at chance), and the contrastive accuracy: the share of rows of view 1 whose nearest key of view 2
    in the batch is their own. Both are means over this rank's rows; every rank must hold equally many. Computed in
    float32 at least. The gradient is made in the forward pass, so that no matrix of similarities is kept; it cannot be
    differentiated again.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(z1, z2, keys, queue)
    with torch.autocast(z1.device.type, enabled=False):
        scaled = unit_rows if normalize else _wide
        rows = scaled(torch.stack([z1, z2]))
        batch_keys = gather_views(rows if keys is None else scaled(keys.detach()))
        loss, accuracy = _ContrastiveLoss.apply(rows.flatten(0, 1), batch_keys, queue, temperature)
    return loss, accuracy


def _check_shapes(z1: Tensor, z2: Tensor, keys: Tensor | None, queue: Tensor | None) -> None:
    if z1.shape != z2.shape or z1.dim() != 2:
        raise ValueError(f"expected two views of one shape (n, d), found {tuple(z1.shape)} and {tuple(z2.shape)}")
    n, dim = z1.shape
    if keys is not None and keys.shape != (2, n, dim):
        raise ValueError(f"expected keys of both views, {(2, n, dim)}, found {tuple(keys.shape)}")
    if queue is not None and (queue.dim() != 2 or queue.shape[1] != dim):
        raise ValueError(f"expected a queue (q, {dim}), found {tuple(queue.shape)}")


def unit_rows(x: Tensor) -> Tensor:
    """Rows of `x` (..., d) at unit length, in float32 at least; rows below length 1e-6 stay short (official code)."""
    x = _wide(x)
    return x * x.square().sum(-1, keepdim=True).clamp_min(1e-12).rsqrt()


def gather_views(x: Tensor) -> Tensor:
    """Every rank's `x` (views, n, d) as (views * ranks * n, d): all ranks' first views, then all ranks' second ones.

    With gradient: that of `x` is the sum over ranks.
    """
    return gather_with_gradient(x).transpose(0, 1).flatten(0, 2)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _ContrastiveLoss(torch.autograd.Function):
    """Rows (2n, d) against keys (2N, d) and a queue (q, d): loss and accuracy, block by block of rows."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, keys: Tensor, queue: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        n, total = len(rows) // 2, len(keys) // 2
        local = torch.arange(n, device=rows.device) + rank() * n  # this rank's rows among each view's keys
        own, positive = torch.cat([local, local + total]), torch.cat([local + total, local])
        loss, correct = rows.new_zeros(()), rows.new_zeros(())
        d_rows, d_keys = torch.empty_like(rows), torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        candidates = keys if queue is None else torch.cat([keys, queue])
        size = max(1, _BLOCK_ELEMENTS.get(rows.device.type, 2**21) // len(candidates))
        for start in range(0, 2 * n, size):
            block = rows[start : start + size]
            index = torch.arange(len(block), device=rows.device)
            logits = (block / temperature) @ candidates.T
            logits[index, own[start : start + size]] = -torch.inf
            target = positive[start : start + size]
            in_view_1 = max(0, min(n - start, len(block)))
            nearest = logits[:in_view_1, total : 2 * total].argmax(1) + total
            correct += (nearest == target[:in_view_1]).sum()
            loss -= logits[index, target].sum()
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            loss += (sums.log() + highest).sum()
            probabilities = exponentials.div_(sums)
            probabilities[index, target] -= 1  # now the gradient with respect to the logits
            d_rows[start : start + size] = probabilities @ candidates
            if d_keys is not None:
                d_keys.addmm_(probabilities[:, : 2 * total].T, block)
        scale = temperature * n
        ctx.save_for_backward(d_rows / scale, None if d_keys is None else d_keys / scale)
        accuracy = correct / n
        ctx.mark_non_differentiable(accuracy)
        return loss / n, accuracy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _accuracy: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        d_rows, d_keys = ctx.saved_tensors
        return d_loss * d_rows, None if d_keys is None else d_loss * d_keys, None, None


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, scale_by_temperature_squared: bool = False
) -> Tensor:
    """Cross-entropy between teacher and student at `temperature` (Eq. 2), mean over the rows of logits (n, classes).

    `scale_by_temperature_squared` multiplies by T^2, as the official code does; Eq. 2 does not.
    """
    teacher = torch.softmax(_wide(teacher_logits) / temperature, 1)
    loss = F.cross_entropy(_wide(student_logits) / temperature, teacher)
    return loss * temperature**2 if scale_by_temperature_squared else loss


def combined_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    distillation_weight: float,
    scale_by_temperature_squared: bool = False,
) -> Tensor:
    """Labels and teacher together (Eq. 3), for logits (n, classes) and labels (n,), -1 for unlabelled rows.

    [(1 - a) * sum over labelled rows of the cross-entropy with the label
     + a * sum over all rows of the cross-entropy with the teacher at `temperature`] / n, with a = distillation_weight.
    Both sums are divided by all rows, so a mean over ranks of equally many rows is the global loss.
    """
    distilled = distillation_loss(student_logits, teacher_logits, temperature, scale_by_temperature_squared)
    supervised = F.cross_entropy(_wide(student_logits), labels, ignore_index=UNLABELLED, reduction="sum") / len(labels)
    return (1 - distillation_weight) * supervised + distillation_weight * distilled


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits (n, classes) with labels (n,), mean over the labelled rows of all ranks (-1: unlabelled).

    Ranks may hold different numbers of labelled rows: each rank's sum is divided by the mean number over ranks. 0
    when no rank has a labelled row.
    """
    total = F.cross_entropy(
        _wide(logits), labels, ignore_index=UNLABELLED, reduction="sum", label_smoothing=label_smoothing
    )
    return total * world_size() / sum_over_ranks((labels != UNLABELLED).sum()).clamp_min(1)
