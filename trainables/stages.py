"""The stages by name: a new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from datasets.splits import check_labels
from trainables import distill, finetune, linear, pretrain, supervised
from trainables.context import Context
from trainables.spec import Stage, settings_of
from trainables.stage import Assignment, Outcome

RUN: dict[Stage, Callable[[Assignment, Context], Outcome]] = {
    "pretrain": pretrain.run,
    "linear": linear.run,
    "finetune": finetune.run,
    "supervised": supervised.run,
    "distill": distill.run,
}


def run_stage(stage: Stage, assignment: Assignment, context: Context) -> Outcome:
    """Run a stage; initial weights are a function of the trial's seed, the same on every rank.

    However it ends, no checkpoint is being written any more when this returns: the next attempt reads the last one.

    Raises:
        ValueError: there is no such stage, its settings are another's, or ids or labels in the shards are not those
            that were sharded.
    """
    if not isinstance(assignment.settings, settings_of(stage)):
        raise ValueError(f"stage {stage} cannot be trained with {type(assignment.settings).__name__}")
    check_labels(assignment.shards, assignment.manifest)
    torch.manual_seed(assignment.seed)
    try:
        return RUN[stage](assignment, context)
    finally:
        context.finish_writes()
