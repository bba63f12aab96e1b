"""Where a training is, and the history that it leaves: means over evenly spaced intervals of steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from trainables.context import Context
from trainables.schedule import learning_rate_at
from trainables.spec import Optimization

HISTORY_ROWS = 100
"""A history has at most about this many rows, evenly spaced."""

HistoryRow = dict[str, float]


@dataclass
class Progress:
    """Where a training is, and what it has seen; part of the checkpoint."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    resumed_seconds: float = 0.0  # training time of earlier sessions
    sessions: int = 0
    node_type: str = ""  # of the session that wrote the checkpoint
    layout: tuple[int, int] = (0, 0)  # workers of that session, and CPU threads of each
    earlier_layouts: list[tuple[int, int]] = field(default_factory=list)  # of sessions with others, in order
    earlier: dict[str, float] = field(default_factory=dict)  # `resumed_seconds` by node type
    judged_step: int = 0  # at which the training was last found worth going on with
    history: list[HistoryRow] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    summed_steps: int = 0

    def seconds_on(self, wall_seconds: float) -> dict[str, float]:
        """The wall seconds of all sessions by node type."""
        this_session = wall_seconds - self.resumed_seconds
        return self.earlier | {self.node_type: self.earlier.get(self.node_type, 0.0) + this_session}


def accumulate(progress: Progress, metrics: dict[str, float]) -> None:
    """Add a step's metrics to the running means of the row that is open."""
    for name, value in metrics.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value
    progress.summed_steps += 1


def close_row(progress: Progress, rows: int, optimization: Optimization, context: Context) -> HistoryRow:
    """The running means as a row of the history, averaged over ranks; a new row is open then."""
    names = sorted(progress.sums)
    means = torch.tensor([progress.sums[name] / progress.summed_steps for name in names], dtype=torch.float64)
    if context.world_size > 1:
        means = means.to(context.device)
        torch.distributed.all_reduce(means)
        means /= context.world_size
    row = _row(progress, rows, optimization, dict(zip(names, means.tolist(), strict=True)))
    progress.sums = {}
    progress.summed_steps = 0
    return row


def row_so_far(progress: Progress, rows: int, optimization: Optimization) -> HistoryRow | None:
    """This rank's running means, whose row stays open; None before the first step of a row."""
    if progress.summed_steps == 0:
        return None
    means = {name: value / progress.summed_steps for name, value in progress.sums.items()}
    return _row(progress, rows, optimization, means)


def _row(progress: Progress, rows: int, optimization: Optimization, means: dict[str, float]) -> HistoryRow:
    """A row as of the last step, with the learning rate of that step."""
    return {
        "step": float(progress.step),
        "epoch": progress.step * optimization.global_batch_size / rows,
        "learning_rate": learning_rate_at(progress.step - 1, rows=rows, optimization=optimization),
        **means,
    }
