"""A global batch larger than a device holds: the gradient of the whole batch's loss, part by part.

The outputs of all parts are made without keeping activations; the loss of the whole batch gives each output's gradient;
then every part passes through the network once more, and its outputs' gradients flow back (Gao et al. 2021, gradient
cache). A part is every M-th row, so that parts, and with them batch norm's moments, are the same for any number of
workers that hold equally many rows, a multiple of M.

Batch norm normalizes each part by its own moments, over all ranks. The moving statistics stay untouched by the first
pass; in the second, each of M parts leaves 0.9^(1/M) of them, so that a step leaves 0.9, as without parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.norm import MOMENTUM, moving_share


def outputs_of(module: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """What a module makes of its inputs, as a tuple also where it is one tensor."""
    made = module(inputs)
    return made if isinstance(made, tuple) else (made,)


def cached_outputs(module: nn.Module, inputs: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Outputs of `module` for all rows of `inputs`, as leaves that take a gradient; moving statistics stay."""
    assert len(inputs) % parts == 0, f"{len(inputs)} rows in {parts} parts"
    with torch.no_grad(), moving_share(module, 1.0):
        made = [outputs_of(module, inputs[part::parts]) for part in range(parts)]
    return tuple(together(pieces).requires_grad_() for pieces in zip(*made, strict=True))


def together(pieces: Sequence[Tensor]) -> Tensor:
    """The rows of all parts in their order: row j of part i is row j x parts + i."""
    return torch.stack(tuple(pieces), 1).flatten(0, 1)


def backward_in_parts(
    module: nn.Module,
    inputs: Tensor,
    gradients: Sequence[Tensor | None],
    parts: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Add to the parameters' gradients what flows back from `gradients`, those of the outputs of `inputs`' rows.

    None stands for an output that the loss does not depend on. Ranks exchange gradients once, after the last part.
    """
    for part in range(parts):
        last = part == parts - 1
        with nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync():
            with autocast(), moving_share(module, MOMENTUM ** (1 / parts)):
                outputs = outputs_of(module, inputs[part::parts])
            flowing = [
                (output, gradient[part::parts])
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None
            ]
            torch.autograd.backward([output for output, _ in flowing], [gradient for _, gradient in flowing])
