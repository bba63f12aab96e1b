"""Runs a function in several processes that form a gloo process group."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _work(rank: int, function: Callable[..., Any], ranks: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    torch.save(function(rank, *arguments), Path(folder) / str(rank))
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)`, importable, returns in each of `ranks` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (function, ranks, folder, arguments), nprocs=ranks)
        return [torch.load(Path(folder) / str(rank)) for rank in range(ranks)]
