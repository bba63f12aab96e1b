"""Runs functions in processes that form a gloo process group; the processes live until the tests end."""

from __future__ import annotations

import functools
import io
import multiprocessing as mp
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist


def _work(rank: int, ranks: int, folder: str, pipe: Connection) -> None:
    """Call what comes through the pipe, and send back what it returns or the error as text."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    while True:
        function, arguments = pipe.recv()
        returned, error = io.BytesIO(), None
        try:
            torch.save(function(rank, *arguments), returned)
        except Exception:
            error = traceback.format_exc()
        pipe.send((error, returned.getvalue()))


@functools.cache
def _processes(ranks: int) -> list[tuple[Any, Connection]]:
    context, folder = mp.get_context("spawn"), tempfile.mkdtemp()
    started = []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(rank, ranks, folder, theirs), daemon=True)
        process.start()
        started.append((process, ours))
    return started


def run_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)`, importable, returns in each of `ranks` processes."""
    processes = _processes(ranks)
    for _, pipe in processes:
        pipe.send((function, arguments))
    results = []
    for rank, (_, pipe) in enumerate(processes):
        error, returned = pipe.recv()
        if error is not None:  # the others may wait for this rank for ever
            for process, _ in processes:
                process.kill()
            _processes.cache_clear()
            raise AssertionError(f"rank {rank} failed:\n{error}")
        results.append(torch.load(io.BytesIO(returned)))
    return results
