"""What ends trainings from outside: nodes that are taken away, announced or not, and the launch that is ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray._private.state import state
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put

from datasets.typed_files import BadFileError
from reports.progress import read_progress
from reports.storage import Storage
from study.clouds.catalog import CLOUDS, first_deadline, preemption_notices
from study.cluster import ray_nodes
from study.failures import failed_in, note_death
from study.killed import reason

NOTICE_SECONDS = 5.0
"""Every worker looks for a notice this often. AWS gives it two minutes ahead and asks to look every five seconds;
Google gives it 30 seconds ahead."""

GONE_SECONDS = 20.0
"""Seconds that Ray may take to find a node dead after a process of it was lost: five unanswered health checks."""

ASKING_SECONDS = 0.5
"""Every worker asks the cluster this often whether its launch ends."""

logger = logging.getLogger(__name__)


def deaths_before(storage: Storage, id: str, launched_at: str, crash_retries: int) -> int | None:
    """How often a one-worker trial's process was killed in this launch; None if it is not to be tried again, since that
    was more often than `crash_retries`, or since it failed.

    Ray Tune starts trials again whose process is gone, and those that met an error, which would come again. A process
    that is gone with its node was not killed.
    """
    if storage.exists("checkpoints", id, "failure.json") and failed_in(storage, id, launched_at):
        return None
    try:
        before = read_progress(storage, id)
    except BadFileError as error:
        logger.warning("%s; the trial begins as if it had not been tried", error)
        return 0
    if before is None or before.launch != launched_at:
        return 0
    here = before.node == this_node()
    if not here and node_died(before.node):
        return before.deaths
    deaths = before.deaths + 1
    if deaths <= crash_retries:
        return deaths
    note_death(storage, id, launched_at, f"{reason(id, before, here=here)}{times(deaths)}")
    return None


def times(deaths: int) -> str:
    """How often a process was killed, where that is more than once."""
    return f" (killed {deaths} times)" if deaths > 1 else ""


def nodes(*, alive: bool) -> set[str]:
    """Ids of the cluster's nodes that live, or that have died."""
    return {node["NodeID"] for node in ray_nodes(alive=alive)}


def node_died(node: str) -> bool:
    """Whether a node that has lost a process is gone itself, which Ray may find out a little later."""
    return _comes_true(lambda: node not in nodes(alive=True))


def lost_nodes() -> set[str]:
    """Ids of the cluster's nodes that have died, or that Ray knows will be taken away."""
    return nodes(alive=False) | draining_nodes()


def any_node_lost(lost_before: set[str], ours: set[str] | None) -> bool:
    """Whether one more of these nodes (None: of all of the cluster) is lost, which Ray may find out a little later."""

    here = {this_node()}  # which lives, but may be about to be taken away

    def lost() -> bool:
        more = lost_nodes() - lost_before
        return bool(more if ours is None else more & ours)

    return lost() if ours == here else _comes_true(lost)


def _comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(1.0)
    return true


def this_node() -> str:
    """Id of the node that this process runs on; empty outside of Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def end_trainings(launch: str) -> None:
    """Tell the workers of a launch to make a checkpoint and end; `launch` is its `launched_at`."""
    _internal_kv_put(_end_key(launch), b"")


def launch_ends(launch: str) -> bool:
    """Whether the trainings of a launch are to end; False outside of Ray."""
    return ray.is_initialized() and bool(_internal_kv_exists(_end_key(launch)))


def _end_key(launch: str) -> str:
    return f"labelscale-ends {launch}"


@dataclass(frozen=True)
class Notices:
    """What a trial's workers are told while they train: that one of its nodes `goes`, that its launch `ends`."""

    goes: threading.Event = field(default_factory=threading.Event)
    ends: threading.Event = field(default_factory=threading.Event)


@contextmanager
def watching(launch: str) -> Iterator[Notices]:
    """Watch for the end of this trial's nodes, and for that of its launch.

    To be entered by all ranks. Every worker asks the clouds about its own node and tells Ray, which then starts nothing
    new there, and `study.gang` takes the end of the training for that of the node. (Ray Train's own watcher is one more
    process on some node for each gang, and does not work in trials of one worker.)
    """
    notices, over = Notices(), threading.Event()
    if not (here := this_node()):
        yield notices
        return
    ours = nodes_of_all_ranks()

    def watch(asking: ThreadPoolExecutor) -> None:
        clouds, told, looked_at = preemption_notices(), False, time.monotonic()
        while not over.wait(ASKING_SECONDS) and not notices.ends.is_set():
            try:
                if launch_ends(launch):
                    notices.ends.set()
                if notices.goes.is_set() or time.monotonic() - looked_at < NOTICE_SECONDS:
                    continue
                looked_at = time.monotonic()
                if (deadline := first_deadline(clouds, asking)) is not None:
                    drain(here, deadline)
                if ours & draining_nodes():
                    notices.goes.set()
            except (RayError, OSError, RuntimeError, ValueError) as error:  # what Ray's clients make of a bad answer
                if not told:
                    logger.warning("the end of nodes could not be watched for, which is tried again: %s", error)
                told = True

    with ThreadPoolExecutor(len(CLOUDS), "clouds") as asking:
        thread = threading.Thread(target=watch, args=[asking], name="notices", daemon=True)
        thread.start()
        try:
            yield notices
        finally:
            over.set()
            thread.join()


def nodes_of_all_ranks() -> set[str]:
    """Ids of the nodes on which the workers of this trial are. To be called by all ranks."""
    if not torch.distributed.is_initialized():
        return {this_node()}
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, this_node())
    return set(gathered)


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray knows will be taken away."""
    return set(state.get_draining_nodes())


def drain(node: str, deadline: float) -> None:
    """Tell Ray that a node is preempted at `deadline`, in seconds since the epoch."""
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client.drain_node(node, reason, "the cloud takes this node away", int(deadline * 1000))
