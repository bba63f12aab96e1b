"""The processes of a trial: what they book, and several workers that train together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch

from study.interruption import any_node_died, nodes

ON_HEAD = {"node:__internal_head__": 0.001}
"""What a trial of several workers books for the process that drives them: no worker's node is kept or lost with it."""

CONTROLLER_FAILURES = 3
"""Ray Train asks for its workers this often before the trial fails; by default it would ask for ever."""

TRAINING_SHARE = 0.9
"""Of each CPU that a worker asks for, this share is booked for training and the rest left to the tasks that read its
shards: if training booked everything, the reads that it waits for could never start."""


def booked(per_worker: dict[str, float]) -> dict[str, float]:
    """The resources that one worker books for training; see `TRAINING_SHARE`."""
    return {name: amount * TRAINING_SHARE if name == "CPU" else amount for name, amount in per_worker.items()}


def booked_by_trial(per_worker: dict[str, float], workers: int) -> dict[str, float]:
    """The resources of a trial's own process, which is its worker if it has one only."""
    return {"CPU": 0.0, **booked(per_worker)} if workers == 1 else ON_HEAD


def train_together(
    worker: Callable[[dict[str, Any]], None],
    job: dict[str, Any],
    workers: int,
    per_worker: dict[str, float],
    folder: str,
    preemption_retries: int,
) -> None:
    """Run a worker's function in several processes, by DDP in Ray Train, which books their resources.

    Where a node is gone, all begin again, so often as `preemption_retries` says; they continue from their checkpoint.
    `folder` is for Ray Train's own use, the caller's to delete.
    """
    for attempt in range(preemption_retries + 1):
        dead = nodes(alive=False)
        try:
            _fit(worker, job, workers, per_worker, folder, f"try-{attempt}", preemption_retries)
            return
        except ray.train.TrainingFailedError:
            if attempt == preemption_retries or not any_node_died(dead):
                raise


def _fit(
    worker: Callable[[dict[str, Any]], None],
    job: dict[str, Any],
    workers: int,
    per_worker: dict[str, float],
    folder: str,
    name: str,
    preemption_retries: int,
) -> None:
    use_gpu = "GPU" in per_worker
    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config=job,
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=booked(per_worker)
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=folder,
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=0,
                max_preemption_failures=preemption_retries,
                controller_failure_limit=CONTROLLER_FAILURES,
            ),
        ),
    )
    trainer.fit()
