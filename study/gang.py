"""The processes of a trial: what they book, and several workers that train together."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch
import torch
from pydantic import TypeAdapter
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from datasets.typed_files import BadFileError
from reports.progress import known_progress
from reports.storage import Storage
from study.capacity import DRIVER_BYTES, HEAD
from study.cluster import session_folder
from study.failures import NoNodesError, ProcessDiedError
from study.interruption import any_node_lost, lost_nodes, nodes_of_all_ranks, this_node, times
from study.killed import reason
from study.meeting import torch_config
from study.progress import clear_progress

logger = logging.getLogger(__name__)
_NODES = TypeAdapter(set[str])

ON_HEAD = {HEAD: 0.001, "memory": DRIVER_BYTES}
"""What a trial of several workers books for the processes that drive them: no worker's node is kept or lost with them,
and there are no more than the head has memory for."""

WAIT_SECONDS = 24 * 3600.0
"""Seconds to wait for workers before the trial fails: 48 times the half hour after which Ray Train asks anew
(`RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S`). Large spot nodes are often scarce for hours, in the busy ones of a day."""

PEER_SECONDS = 3.0
"""Ranks whose peer was killed notice that at once, and Ray Train when it asks the peer the next time."""

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
    storage: Storage,
    id: str,
    preemption_retries: int,
    crash_retries: int = 0,
    ends: Callable[[], bool] = lambda: False,
) -> None:
    """Run a worker's function in several processes, by DDP in Ray Train, which books their resources.

    Where one of their nodes is gone, all begin again, at most `preemption_retries` times, and where one of them was
    killed, at most `crash_retries` times, with `deaths` in the job as often as that was; they continue from their
    checkpoint. Meanwhile the trial `id` has a file of the nodes that they are on beside its checkpoints; of one whose
    workers wait for nodes there is none, nor one of its progress.

    Raises:
        ray.train.TrainingFailedError: a worker failed by itself, or as the launch `ends`; what it met is in the error.
        ProcessDiedError: one of them was killed more often than that.
        NoNodesError: their nodes were lost more often than that, or for `WAIT_SECONDS` there were none.
    """
    note = ("checkpoints", id, "nodes.json")
    work = _telling_nodes(worker, storage.root, note)
    lost, deaths, asked_at = 0, job.get("deaths", 0), time.monotonic()
    try:
        while True:
            lost_before = lost_nodes()
            storage.delete(*note)
            clear_progress(storage, id)
            try:
                _fit(work, {**job, "deaths": deaths}, workers, per_worker)
                return
            except ray.train.TrainingFailedError as error:
                if ends():
                    raise
                if _is(error, WorkerGroupStartupTimeoutError):
                    if time.monotonic() - asked_at < WAIT_SECONDS:
                        continue
                    why = f"there was no room for its {workers} workers of {per_worker} in {WAIT_SECONDS / 3600:g} h"
                    raise NoNodesError(f"{why}; launch again to wait for it again") from error
                ours = _nodes_told(storage, note)
                if _lost_a_node(error, lost_before, ours):
                    lost += 1
                elif _killed_a_worker(error):
                    deaths += 1
                else:
                    raise
                if lost > preemption_retries:
                    why = f"nodes of its workers were lost {lost} times (`preemption_retries` are {lost - 1})"
                    raise NoNodesError(f"{why}; launch again to continue it") from error
                if deaths > crash_retries:
                    why = reason(id, known_progress(storage, id), here=ours == {this_node()})
                    raise ProcessDiedError(f"{why}{times(deaths)}; launch again to continue it") from error
                asked_at = time.monotonic()
    finally:
        _delete_note(storage, note)


def _delete_note(storage: Storage, note: tuple[str, ...]) -> None:
    """Delete the file of a trial's nodes; that it stays is no failure: how the trial ended is what counts."""
    try:
        Storage(storage.root).delete(*note)
    except OSError as error:
        logger.warning("%s could not be deleted: %s", "/".join(note), error)


def _telling_nodes(
    worker: Callable[[dict[str, Any]], None], root: str, note: tuple[str, ...]
) -> Callable[[dict[str, Any]], None]:
    """The worker's function, before which rank 0 writes the nodes of all ranks to a file of the storage at `root`: each
    process opens it anew, since a client that was pickled tries less often."""

    def tell_nodes_and_work(job: dict[str, Any]) -> None:
        found = nodes_of_all_ranks()
        if torch.distributed.get_rank() == 0:
            try:
                Storage(root).write_bytes(json.dumps(sorted(found)).encode(), *note)
            except OSError as error:  # then the end of any node counts as one of theirs
                logger.warning("the nodes of %s could not be noted: %s", "/".join(note), error)
        try:
            worker(job)
        except RuntimeError:  # perhaps of a peer that was killed: that is seen a little later, and is to be told
            time.sleep(PEER_SECONDS)
            raise

    return tell_nodes_and_work


def _fit(
    work: Callable[[dict[str, Any]], None], job: dict[str, Any], workers: int, per_worker: dict[str, float]
) -> None:
    """One attempt, which Ray Train is not to repeat: `train_together` counts. Nothing is reported to Ray Train, so that
    it needs no folder which all nodes see, and no client of an object store that would be less patient than ours."""
    use_gpu = "GPU" in per_worker
    with tempfile.TemporaryDirectory(prefix="labelscale-train-", dir=session_folder()) as scratch:
        trainer = _Trainer(
            work,
            train_loop_config=job,
            torch_config=torch_config("nccl" if use_gpu else "gloo", scratch),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker=booked(per_worker)
            ),
            run_config=ray.train.RunConfig(
                name="gang",
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=0
                ),
            ),
        )
        trainer.fit()


class _AsManyAsAsked(FixedScalingPolicy):
    """A fixed number of workers, of which the autoscaler is told by their placement group alone.

    Ray Train would also have it keep as many nodes as the workers fill, whoever fills them: beside a gang as many idle
    nodes stayed. And this second request is never withdrawn if the actor that sends it is lost.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Request nothing again."""


class _Trainer(ray.train.torch.TorchTrainer):
    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = _AsManyAsAsked(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**{**arguments, "scaling_policy": policy})  # type: ignore[misc]


def _killed_a_worker(error: ray.train.TrainingFailedError) -> bool:
    """Whether a process of an attempt ended without a word."""
    failures = list(getattr(error, "worker_failures", {}).values())
    inner = [getattr(failure, "health_check_failure", failure) for failure in failures]
    return any(isinstance(one, (RayActorError, OutOfMemoryError)) for one in inner)


def _is(error: ray.train.TrainingFailedError, kind: type[Exception]) -> bool:
    """Whether the controller failed by an error of this kind."""
    return isinstance(error, ray.train.ControllerError) and isinstance(error.controller_failure, kind)


def _lost_a_node(error: ray.train.TrainingFailedError, lost_before: set[str], ours: set[str] | None) -> bool:
    """Whether an attempt ended by the end of a node, announced or not; or before the trial's own code began to run, of
    which a worker that did not start says nothing."""
    return _is(error, WorkerGroupStartupFailedError) or any_node_lost(lost_before, ours)


def _nodes_told(storage: Storage, note: tuple[str, ...]) -> set[str] | None:
    """The nodes of this attempt's workers; None if it ended before they told, or what they told cannot be read."""
    try:
        return storage.read_typed(_NODES, *note)
    except FileNotFoundError:
        return None
    except BadFileError as error:  # then the end of any node counts as one of theirs
        logger.warning("%s; it does not count", error)
        return None
