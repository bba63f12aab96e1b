"""The one training loop of all stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.batches import Batch
from trainables.checkpoint import State
from trainables.collectives import all_gather
from trainables.context import Context, InterruptedTrainingError
from trainables.history import HISTORY_ROWS, HistoryRow, Progress, accumulate, close_row, row_so_far
from trainables.micro_batches import backward_in_parts, cached_outputs, outputs_of
from trainables.optimizer import build_optimizer, load_optimizer, set_rate
from trainables.schedule import learning_rate_at, total_steps
from trainables.spec import Optimization

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Type of parameters and inputs; bfloat16 is autocast over float32 parameters."""


class BatchStream(Protocol):
    """An endless sequence of this rank's batches, resumable at any step."""

    def iterate(self, first_step: int) -> Iterator[Batch]: ...


Outputs = tuple[Tensor, ...]
"""What a network makes of its inputs: tensors with a row for each row of the inputs."""


@dataclass(frozen=True)
class Task:
    """What a stage asks the loop to train.

    `inputs(batch)` is what `module` maps to its outputs (one tensor, or a tuple), followed by the targets;
    `loss(outputs, *targets)` returns this rank's mean loss (a scalar) and a dictionary of scalar metrics; the mean over
    ranks is the global loss. `rows` is
    the number of training rows that one epoch passes over. `micro_batches`: see `micro_batches.py`.
    `watch(outputs, history)` is called at each step that closes a row of the history, on every rank; it may add to the
    last row, and stops a hopeless training by raising. `evaluate(done)` gives the metrics of the module as it is, the
    share `done` of the steps being done.
    """

    module: nn.Module
    inputs: Callable[[Batch], tuple[Any, ...]]
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    stream: BatchStream
    rows: int
    optimization: Optimization
    evaluate: Callable[[float], dict[str, float]]
    micro_batches: int = 1
    watch: Callable[[Outputs, list[HistoryRow]], None] | None = None


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or NaN; raised before the optimizer step that would have spread it."""


def train(task: Task, context: Context) -> Progress:
    """Train to the last step, from the latest checkpoint if there is one; afterwards `task.module` is trained.

    Initialization: the module's own, then the checkpoint's state if the trial was interrupted. The step counts
    the updates already done; the learning rate of an update is that of the step before it (so the first one has rate 0
    when there is a warm-up).

    Raises:
        InterruptedTrainingError: its user ended it; there is a checkpoint of the last step.
        NonFiniteLossError: naming the step and the learning rate.
        PrunedError: the trial was judged hopeless beside others.
    """
    optimization = task.optimization
    last = total_steps(task.rows, optimization.epochs, optimization.global_batch_size)
    every = max(1, math.ceil(last / HISTORY_ROWS))
    optimizer = build_optimizer(task.module, optimization)
    progress = _resume(task.module, optimizer, context)
    module = _parallel(task.module, context)
    started = time.monotonic() - progress.seconds
    module.train()
    context.course.begin(progress.history, progress.images, lambda: row_so_far(progress, task.rows, optimization))

    def save() -> None:
        progress.seconds = time.monotonic() - started
        context.save_checkpoint(_state(task.module, optimizer, progress))

    with closing(_batches(task.stream, progress.step, last)) as batches:  # type: ignore[type-var]
        try:
            _judge(task, context, progress, last, started)
            for batch in context.course.fetched(batches):
                rate = learning_rate_at(progress.step, rows=task.rows, optimization=optimization)
                metrics, outputs = _update(module, optimizer, task, batch, rate, context, progress.step)
                progress.step += 1
                progress.images += optimization.global_batch_size
                accumulate(progress, metrics)
                context.course.stepped(progress.images)
                if progress.step % every == 0 or progress.step == last:
                    progress.history.append(close_row(progress, task.rows, optimization, context))
                    if task.watch is not None:
                        task.watch(outputs, progress.history)
                    context.course.add(progress.history[-1])
                context.attend(progress.step / last)
                _judge(task, context, progress, last, started)
                if context.checkpoint_due() or (progress.step == last and context.rank == 0):
                    save()
        except InterruptedTrainingError:
            save()
            context.finish_writes()
            raise
    progress.seconds = time.monotonic() - started
    return progress


def _judge(task: Task, context: Context, progress: Progress, last: int, started: float) -> None:
    """Have a training judged where it has reached a rung, once: it may have been interrupted before that."""
    due = progress.judged_step < progress.step and reaches_rung(progress.step, last, context.rungs)
    if context.judge is not None and due:
        dev_top1 = task.evaluate(progress.step / last)["dev_top1"]
        context.judge(progress.step, dev_top1, time.monotonic() - started)
        progress.judged_step = progress.step


def reaches_rung(step: int, last: int, rungs: int) -> bool:
    """Whether `step` of `last` updates are the first to make up one of the shares 1 / rungs, 2 / rungs, ... below 1."""
    return step < last and step * rungs // last > (step - 1) * rungs // last


def autocast(optimization: Optimization, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 autocast when the precision asks for it, else nothing."""
    match optimization.precision:
        case "bfloat16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        case "float32" | "float64":
            return nullcontext()
        case _:
            assert_never(optimization.precision)


def _batches(stream: BatchStream, first: int, last: int) -> Iterator[Batch]:
    for _, batch in zip(range(first, last), stream.iterate(first), strict=False):
        yield batch


def _update(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    batch: Batch,
    rate: float,
    context: Context,
    step: int,
) -> tuple[dict[str, float], Outputs]:
    """One optimizer step; returns this rank's loss and metrics, and the outputs of its rows without gradient."""
    optimization = task.optimization
    inputs, *targets = task.inputs(batch)
    optimizer.zero_grad(set_to_none=True)
    parts = task.micro_batches
    with autocast(optimization, context.device):
        outputs = outputs_of(module, inputs) if parts == 1 else cached_outputs(task.module, inputs, parts)
    with autocast(optimization, context.device):
        loss, metrics = task.loss(outputs, *targets)
    # All numbers at once and before the backward pass: a GPU is waited for once, with work still to hand to it.
    value, *measured = torch.stack([number.detach().double() for number in (loss, *metrics.values())]).tolist()
    if not math.isfinite(value):
        raise NonFiniteLossError(
            f"{context.trial}: the loss is {value} at step {step} (learning rate {rate:g}); "
            "lower learning_rate, or lengthen warmup_epochs"
        )
    torch.autograd.backward(loss)
    if parts > 1:
        gradients = [output.grad for output in outputs]
        backward_in_parts(module, inputs, gradients, parts, lambda: autocast(optimization, context.device))
    set_rate(optimizer, rate)
    optimizer.step()
    values = {"loss": value, **dict(zip(metrics, measured, strict=True))}
    return values, tuple(output.detach() for output in outputs)


def _parallel(module: nn.Module, context: Context) -> nn.Module:
    """Average gradients over ranks; batch norm keeps its own statistics equal, so buffers are not sent around."""
    if context.world_size == 1:
        return module
    devices = [context.device] if context.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


def _state(module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> dict[str, Any]:
    return {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "progress": dict(vars(progress))}


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, context: Context) -> Progress:
    """Load the latest checkpoint into module and optimizer; a fresh start otherwise."""
    state = _agreed(context.latest_checkpoint(), context)
    progress = Progress()
    if state is not None:
        module.load_state_dict(state["module"])
        load_optimizer(optimizer, state["optimizer"])
        progress = Progress(**state["progress"])
        if context.world_size > 1:  # the running means are rank 0's; the other ranks' are lost
            progress.sums, progress.summed_steps = {}, 0
    _note_layout(progress, (context.world_size, torch.get_num_threads()), context)
    if progress.sessions:
        last = progress.seconds - progress.resumed_seconds
        progress.earlier[progress.node_type] = progress.earlier.get(progress.node_type, 0.0) + last
    progress.resumed_seconds, progress.node_type = progress.seconds, context.node_type
    progress.sessions += 1
    return progress


def _note_layout(progress: Progress, layout: tuple[int, int], context: Context) -> None:
    """Note how many workers and threads go on with a training, and say so where these are not those of before."""
    before = tuple(progress.layout)
    if progress.sessions and before != layout:
        progress.earlier_layouts.append((before[0], before[1]))
        if context.rank == 0:
            context.note(
                f"{context.trial} goes on at step {progress.step} with {layout[0]} workers of {layout[1]} threads, "
                f"after {before[0]} of {before[1]}: its result is no longer the undisturbed one's to the bit"
            )
    progress.layout = layout


def _agreed(state: State | None, context: Context) -> State | None:
    """A checkpoint that all ranks have read; None where one of them could not, since all train from the same step."""
    if context.world_size == 1:
        return state
    step = -1 if state is None else state["progress"]["step"]
    steps = all_gather(torch.tensor([step], device=context.device))
    if bool((steps == steps[0]).all()):
        return state
    context.warn(f"{context.trial} begins anew, for not all of its workers could read its checkpoint")
    context.saved_step = 0
    return None
