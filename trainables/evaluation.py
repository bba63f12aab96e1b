"""Evaluation on the test split, once and after the last step, or on a dev split; every image counted once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from datasets.splits import row_ids
from trainables.collectives import sum_over_ranks
from trainables.context import Context
from trainables.loop import NonFiniteLossError
from trainables.metrics import topk_counts
from trainables.protocol import RowCount
from trainables.stage import Assignment


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inference mode of layers and gradients, and back to training afterwards."""
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(was_training)


def evaluate(
    module: nn.Module, assignment: Assignment, context: Context, dtype: torch.dtype, done: float = 1.0
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in [0, 1] and mean cross-entropy on the test split, every image counted once.

    A trial with a dev split is evaluated on that, never on the test split, and its metrics are called `dev_top1`,
    `dev_top5` and `dev_loss`. `module` maps images (n, 3, S, S) to logits. Counts are summed over ranks and divided
    once. `done`: the share of the training's steps that are done by now, for the report.

    Raises:
        NonFiniteLossError: the model gives infinities or NaN.
        ProtocolError: not every image was seen exactly once.
    """
    split, rows = assignment.evaluated
    name, prefix = ("test", "") if assignment.dev is None else ("dev", "dev_")
    counts = torch.zeros(3, dtype=torch.float64, device=context.device)
    loss = torch.zeros(1, dtype=torch.float64, device=context.device)
    seen = RowCount(context.device)
    with evaluating(module):
        for batch in assignment.eval_batches(split, len(rows), context, rows.start):
            labels = batch.labels.to(context.device)
            logits = module(assignment.eval_view(batch, context, dtype))
            counts += topk_counts(logits, labels)
            loss += nn.functional.cross_entropy(logits.double(), labels, reduction="sum")
            seen.add(batch.ids)
            context.attend(done)
    seen.check("the evaluation", row_ids(assignment.shards, assignment.manifest, split, rows.stop)[rows.start :])
    top1, top5, images_seen, summed_loss = sum_over_ranks(torch.cat([counts, loss])).tolist()
    if not math.isfinite(summed_loss):
        raise NonFiniteLossError(
            f"{context.trial}: the loss on the {name} split is not finite: the last steps diverged; lower learning_rate"
        )
    return {
        f"{prefix}top1": top1 / images_seen,
        f"{prefix}top5": top5 / images_seen,
        f"{prefix}loss": summed_loss / images_seen,
        "evaluated": images_seen,
    }
