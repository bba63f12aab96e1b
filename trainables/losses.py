"""Contrastive, distillation and classification losses; each rank's value, whose mean over ranks is the global loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.collectives import gather_with_gradient, rank, sum_over_ranks, world_size

UNLABELLED = -1
_BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}  # similarities at a time: 8 MB stay in a CPU's cache, 1 GB fills a GPU


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent (Eq. 1) of two views' projections z1 and z2 (n, d), row i of both from one image, over all ranks' rows.

    Rows are normalized to unit length; each is classified among all ranks' rows of both views but itself. Returns the
    sum of the two views' mean losses, as in the official code (twice the paper's mean over 2N rows; 2 ln(2N - 1) at
    chance), and the contrastive accuracy: the share of rows of view 1 whose nearest row of view 2 is their own. Both
    are means over this rank's rows; every rank must hold equally many. Computed in float32 at least. The gradient is
    made in the forward pass, so that no matrix of similarities is kept; it cannot be differentiated again.
    """
    if z1.shape != z2.shape or z1.dim() != 2:
        raise ValueError(f"expected two views of one shape (n, d), found {tuple(z1.shape)} and {tuple(z2.shape)}")
    with torch.autocast(z1.device.type, enabled=False):
        z = _wide(torch.stack([z1, z2]))
        z = z * z.square().sum(2, keepdim=True).clamp_min(1e-12).rsqrt()
        gathered = gather_with_gradient(z)  # (ranks, 2, n, d)
        keys = gathered.transpose(0, 1).flatten(0, 2)  # all ranks' view 1, then all ranks' view 2
        loss, accuracy = _ContrastiveLoss.apply(z.flatten(0, 1), keys, temperature)
    return loss, accuracy


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _ContrastiveLoss(torch.autograd.Function):
    """Unit rows (2n, d) against unit keys (2N, d): loss and accuracy, block by block of rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        n, total = len(rows) // 2, len(keys) // 2
        local = torch.arange(n, device=rows.device) + rank() * n  # this rank's rows among each view's keys
        own, positive = torch.cat([local, local + total]), torch.cat([local + total, local])
        loss, correct = rows.new_zeros(()), rows.new_zeros(())
        d_rows, d_keys = torch.empty_like(rows), torch.zeros_like(keys)
        size = max(1, _BLOCK_ELEMENTS.get(rows.device.type, 2**21) // len(keys))
        for start in range(0, 2 * n, size):
            block = rows[start : start + size]
            index = torch.arange(len(block), device=rows.device)
            logits = (block / temperature) @ keys.T
            logits[index, own[start : start + size]] = -torch.inf
            target = positive[start : start + size]
            in_view_1 = max(0, min(n - start, len(block)))
            correct += (logits[:in_view_1, total:].argmax(1) + total == target[:in_view_1]).sum()
            loss -= logits[index, target].sum()
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            loss += (sums.log() + highest).sum()
            probabilities = exponentials.div_(sums)
            probabilities[index, target] -= 1  # now the gradient with respect to the logits
            d_rows[start : start + size] = probabilities @ keys
            d_keys.addmm_(probabilities.T, block)
        ctx.save_for_backward(d_rows / (temperature * n), d_keys / (temperature * n))
        accuracy = correct / n
        ctx.mark_non_differentiable(accuracy)
        return loss / n, accuracy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _accuracy: Tensor) -> tuple[Tensor, Tensor, None]:
        d_rows, d_keys = ctx.saved_tensors
        return d_loss * d_rows, d_loss * d_keys, None


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
