"""A launch as a Ray job on a cluster: submitted from a laptop, followed from any, and independent of both."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.cluster import COMMIT_VARIABLE, JOB_VARIABLE, ROOT, SETTINGS_OF_RAY, git_state, job_client
from study.tunnel import dashboard

PACKAGES = ("datasets", "reports", "study", "trainables")
"""What travels to the cluster: all that a launch imports."""

LOST_SECONDS = 600.0
"""So long a job is looked for after the connection broke; it runs on in any case."""

RETRY_SECONDS = 5.0

SILENT_SECONDS = 60.0
"""After so long without a word a job's output is asked for again, because a connection may be broken silently."""

READY_SECONDS = 60.0
"""So long a head may take after its start until it takes jobs."""

Say = Callable[[str], None]


def launch_on_cluster(
    cluster: str, study_file: str, study_name: str, storage: str, options: list[str], say: Say
) -> int:
    """Submit a launch, or find the one that runs on this storage, and follow it to its end; returns its exit code.

    `options` are further arguments of the launch. Ctrl-C ends the following, never the job.

    Raises:
        ValueError: no cluster, no token, or another study's launch on this storage.
    """
    with dashboard(cluster) as url:
        client = job_client(url)
        job = _running(client, storage)
        if job is not None and job.metadata["study"] != study_name:
            raise ValueError(
                f"the storage {storage} is in use by job {job.submission_id} of the study {job.metadata['study']!r}; "
                "wait for it, or give this study another storage"
            )
        if job is None:
            id = _submit(client, study_file, study_name, storage, options)
            say(f"job {id} runs on the cluster; Ctrl-C leaves it running, launching again follows it")
        else:
            id = str(job.submission_id)
            say(f"following job {id}, which runs already")
    try:
        return _follow(cluster, id, say)
    except KeyboardInterrupt:
        say(f"job {id} goes on; launch again to follow it. To end it: `ray dashboard CLUSTER.yaml`, and meanwhile")
        say(f"`RAY_AUTH_MODE=token ray job stop {id} --address http://127.0.0.1:8265`")
        return 130


def _running(client: Any, storage: str) -> Any | None:
    """The launch that runs on a storage, if there is one."""
    for job in client.list_jobs():
        if (job.metadata or {}).get("storage") == storage and not job.status.is_terminal():
            return job
    return None


def _submit(client: Any, study_file: str, study_name: str, storage: str, options: list[str]) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", study_name)
    id = f"{slug}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    command = ["python", "-m", "study", "launch", "study.yaml", "--address", "auto", "--storage", storage, *options]
    commit, dirty = git_state()
    with tempfile.TemporaryDirectory(prefix="labelscale-job-") as tree:
        _copy_tree(Path(tree), study_file)
        variables = {
            **SETTINGS_OF_RAY,
            COMMIT_VARIABLE: f"{commit} dirty" if dirty else commit,
            JOB_VARIABLE: id,
            "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C does: trials end, the lease is given back
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
        }
        _submit_when_ready(
            client,
            entrypoint=shlex.join(command),
            submission_id=id,
            metadata={"study": study_name, "storage": storage},
            runtime_env={"working_dir": tree, "env_vars": variables},
        )
    return id


def _submit_when_ready(client: Any, **job: Any) -> None:
    """Submit a job; a head that has just started takes none for a while.

    Raises:
        ValueError: the cluster does not take it.
    """
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ValueError(f"the cluster does not take the job: {error}") from error
            time.sleep(2.0)


def _copy_tree(tree: Path, study_file: str) -> None:
    """The code and the study, and nothing else of the checkout."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(study_file, tree / "study.yaml")


def _follow(cluster: str, id: str, say: Say) -> int:
    """Print what a job says until it ends; a connection that breaks is made again."""
    printed, seen_at = 0, time.monotonic()
    while True:
        try:
            with dashboard(cluster) as url:
                client = job_client(url)
                seen_at = time.monotonic()
                printed = asyncio.run(_print_logs(client, id, printed))
                info = client.get_job_info(id)
        except (ConnectionError, OSError, ValueError) as error:
            if time.monotonic() - seen_at > LOST_SECONDS:
                raise ValueError(f"lost sight of job {id}: {error}. Launch again to find it, or to go on") from error
            say("the connection is lost; trying again")
            time.sleep(RETRY_SECONDS)
            continue
        if info.status.is_terminal():
            if info.driver_exit_code is None:
                say(f"job {id} {info.status.value.lower()}: {info.message}")
            return 1 if info.driver_exit_code is None else int(info.driver_exit_code)
        time.sleep(1.0)


async def _print_logs(client: Any, id: str, printed: int) -> int:
    """Print a job's output from character `printed` on until it ends or is silent; returns the number of characters.

    Raises:
        ConnectionError: the connection ended before the job.
    """
    import aiohttp

    read, texts = 0, client.tail_job_logs(id)
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                text = await anext(texts)
            fresh = text[max(0, printed - read) :]
            read += len(text)
            print(fresh, end="", flush=True)
            printed = max(printed, read)
    except (StopAsyncIteration, TimeoutError):
        return printed
    except (RuntimeError, aiohttp.ClientError) as error:
        raise ConnectionError(str(error)) from error
    finally:
        await texts.aclose()
