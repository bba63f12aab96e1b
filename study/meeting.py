"""How the workers of a training find each other: on one machine in a file, on a cluster as Ray Train has it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from study.private_ray import on_loopback


def torch_config(backend: str, scratch: str) -> TorchConfig:
    """What Ray Train needs to know of the process group; `scratch` is a folder of this machine for the attempt."""
    return _OneMachine(backend=backend, scratch=scratch) if on_loopback() else TorchConfig(backend=backend)


@dataclass
class _OneMachine(TorchConfig):
    scratch: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _MeetInFile


class _MeetInFile(_TorchBackend):
    """Torch's own store for the ranks to meet listens on all addresses, and lets in whoever connects."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, _OneMachine)
        path = Path(backend_config.scratch) / uuid.uuid4().hex
        worker_group.execute(_set_torch_distributed_env_vars)
        ranks = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _meet, str(path), backend_config.backend, rank, ranks, backend_config.timeout_s
                )
                for rank in range(ranks)
            ]
        )


def _meet(path: str, backend: str, rank: int, ranks: int, timeout_s: int) -> None:
    """Join the process group of the ranks that name the same file."""
    store = dist.FileStore(path, ranks)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s))
