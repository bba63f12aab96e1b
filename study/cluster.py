"""Ray for a launch: a private one on this machine, or a cluster whose nodes must see the storage."""

from __future__ import annotations

import functools
import logging
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from reports.storage import Storage
from study.authentication import asks_for_token, use_own_token
from study.ending import ending
from study.private_ray import on_loopback, private_folder, private_ray
from study.ray_loss import begun_anew_if_lost
from study.upload import ROOT, copy_code

SETTINGS_OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # workers are polled, and their end is seen at the next poll
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of trials that end together with the launch: it says why by itself
    "RAY_task_oom_retries": "3",  # of a task that does not fit; Ray would repeat it for ever
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box even at verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # of Tune's retries, which are for nothing else here
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it would keep some node, an idle one, as long as its gang trains
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",  # then asked for anew, for a day: see `study.gang`
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # storage holds the truth, in records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are for `study.ending`
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # on SIGTERM it would print addresses of the stack
}
COMMIT_VARIABLE = "LABELSCALE_COMMIT"
"""On a cluster the tree is no checkout: the launch that sent it there says what it was."""
JOB_VARIABLE = "LABELSCALE_JOB"
"""The id of the Ray job that a launch runs in."""


@contextmanager
def ray_cluster(
    address: str | None, storage: Storage | None = None, say: Callable[[str], None] = print
) -> Iterator[Path]:
    """Ray for the time of a launch: one that this user alone can reach, on this machine, or the cluster at `address`;
    yields a folder for what the launch needs meanwhile, which is removed however it ends.

    The code travels to a cluster's nodes, and it is said what that is; see `study.upload`.

    Raises:
        ValueError: no cluster at the address, or one that refuses this user's token, or an address of Ray Client, in
            which a study cannot be driven.
    """
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"--address {address}: a study is driven from inside its cluster; run the launch on the head node with "
            "--address auto (`ray exec cluster.yaml ...`), or submit it as a Ray job"
        )
    if address is not None and address != "auto":
        _check_that_something_listens(address)
        use_own_token(address)
    environment = dict(os.environ)
    for name, value in SETTINGS_OF_RAY.items():
        os.environ.setdefault(name, value)
    with private_ray() if address is None else private_folder() as folder:
        try:
            _connect(address, storage, folder, say)
            with begun_anew_if_lost(storage, environment) if address is None else nullcontext():
                yield folder
        finally:
            _leave_ray()


def _leave_ray() -> None:
    """Leave Ray, and take signals back until it is through: it sets SIGTERM to the system's default on its way."""
    import ray

    leaving = threading.Thread(target=ray.shutdown, name="leaving Ray", daemon=True)
    leaving.start()
    while leaving.is_alive():
        leaving.join(0.01)
        ending.take_back()


def _connect(address: str | None, storage: Storage | None, folder: Path, say: Callable[[str], None]) -> None:
    """Start a Ray whose files are in `folder`, or join the one at an address."""
    import ray
    import ray.data

    start = functools.partial(ray.init, logging_level=logging.ERROR, log_to_driver=False)
    try:
        if address is None:
            # Ray lets all users write to its folder: what is around it keeps them out.
            start(address="local", include_dashboard=False, _temp_dir=str(folder / "ray"))
            assert on_loopback()
        elif JOB_VARIABLE in os.environ:  # the job brought the tree
            start(address=address)
        else:
            here = Path(storage.root) if storage is not None and storage.is_local else None
            upload = copy_code(folder / "code", storage=here)
            start(address=address, runtime_env={"working_dir": str(folder / "code"), "env_vars": SETTINGS_OF_RAY})
            say(f"the cluster has {upload.sentence()}")
    except SystemExit as error:  # Ray's own way to end on SIGTERM, which it handles while it starts
        raise KeyboardInterrupt from error
    except ConnectionError as error:
        raise ValueError(f"--address {address}: no Ray cluster answers there ({error}); is it up?") from error
    finally:
        ending.take_back()
    if address is not None and not asks_for_token(ray.get_runtime_context().gcs_address):
        say("the cluster asks for no token: whoever reaches its ports can run code on its nodes (docs/security.md)")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told once, by the launch, in its own words
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray._private.worker.print_to_stdstream = _print_nothing  # a page about each process that was killed, in colors


def _print_nothing(data: object, ignore_prefix: bool) -> None:
    """In the place of what prints Ray's own words on the cluster's state."""


def session_folder() -> str:
    """A folder of this machine that goes with the Ray which this process belongs to."""
    from ray._private import worker

    node: Any = worker._global_node
    return str(node.get_session_dir_path())


def ray_nodes(*, alive: bool) -> list[dict[str, Any]]:
    """The cluster's nodes that live, or that have died, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] == alive]  # type: ignore[no-untyped-call]


def keep_shared_actors_here() -> None:
    """Start on this process's node, a launch's head, the two actors that Ray Data has once in a cluster.

    The first process that reads by Ray Data would start them on its own node, which they would keep for ever: they
    outlive the jobs that use them. One that runs already stays where it is. They are Ray's own, started as Ray starts
    them, so that other jobs of the cluster find them as they expect them.
    """
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
    get_or_create_stats_actor()


def job_client(url: str) -> Any:
    """A client of the jobs at a dashboard's URL.

    Raises:
        ValueError: nobody answers there, the token is missing or wrong, or Ray's dashboard is not installed here.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they would count more than the URL
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        raise ValueError(
            f"the cluster at {url} refuses this user's token ({error}); it expects the one with which it was started, "
            "in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"no jobs can be run at {url}: {error}") from error


def git_state() -> tuple[str, bool]:
    """Commit of the checkout, and whether it has uncommitted changes; "unknown" outside of a checkout."""
    if told := os.environ.get(COMMIT_VARIABLE):
        commit, _, dirty = told.partition(" ")
        return commit, dirty == "dirty"
    try:
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _check_that_something_listens(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"--address {address}: no Ray cluster answers there ({error}); expected HOST:PORT") from error


def check_storage_is_shared(storage: Storage) -> None:
    """Refuse a storage on this machine's disk if the cluster's other nodes do not see it.

    Raises:
        ValueError: a node does not find the file that was written here.
    """
    if not storage.is_local:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = f"shared-{uuid.uuid4().hex}"
    storage.write_bytes(b"", token)
    try:
        sees: Any = ray.remote(num_cpus=0)(lambda root: Storage(root).exists(token))
        for node in ray_nodes(alive=True):
            pinned = sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            if not ray.get(pinned.remote(storage.root)):
                raise ValueError(
                    f"the storage {storage.root} is not seen by every node of the cluster; "
                    "give a shared folder or a URL such as s3://bucket/runs"
                )
    finally:
        storage.delete(token)
