"""A launch as a Ray job on a cluster: submitted from a laptop, followed from any, and independent of both."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reports.file_name import file_name
from study.cluster import job_client
from study.ending import ending
from study.parcel import STUDY_FILE, job_variables, write_tree
from study.private_ray import private_folder
from study.tunnel import dashboard
from study.upload import Upload

LOST_SECONDS = 600.0
"""Seconds to keep looking for a job after it was last heard of; the job itself runs on."""

RETRY_SECONDS = 5.0

SILENT_SECONDS = 60.0
"""Seconds of silence after which a job's output is asked for again: a connection may break without a word."""

READY_SECONDS = 60.0
"""Seconds that a head may take from its start until it accepts jobs."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A launch for a cluster: the study's name and YAML (see `load.study_text`), where its results go, and further
    `options` of the launch."""

    name: str
    text: str
    storage: str
    options: list[str]

    def metadata(self) -> dict[str, str]:
        """What its job says of it."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return {
            "study": self.name,
            "storage": self.storage,
            "options": shlex.join(self.options),
            "study_sha256": digest,
        }


def launch_on_cluster(cluster: str, submission: Submission, say: Say) -> int:
    """Submit a launch, or find it where it runs already, and follow it to its end; returns its exit code.

    Ctrl-C ends the following, never the job.

    Raises:
        ValueError: no cluster, no token, or a launch of another study or with other options on this storage.
        ConnectionError: the cluster does not answer as one does.
    """
    with dashboard(cluster) as url:
        client = job_client(url)
        job = _running(client, submission.storage)
        if job is None:
            id, sent = _submit(client, submission)
            say(f"job {id} runs on the cluster; Ctrl-C leaves it running, launching again follows it")
            say(f"it got the study's file and {sent.sentence()}")
        else:
            check_same_launch(str(job.submission_id), job.metadata, submission.metadata())
            id = str(job.submission_id)
            say(f"following job {id}, which runs already")
    try:
        return _follow(cluster, id, say)
    except KeyboardInterrupt:
        say(f"job {id} goes on; launch again to follow it. To end it: `ray dashboard CLUSTER.yaml`, and meanwhile")
        say(f"`{_stop_command(id)}`")
        return ending.code


def check_same_launch(id: str, running: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse to follow a job that is not the launch that is wanted; both are told by their metadata.

    Raises:
        ValueError: it is of another study, of a file that was changed since, or has other options.
    """
    storage = wanted["storage"]
    if running["study"] != wanted["study"]:
        raise ValueError(
            f"the storage {storage} is in use by job {id} of the study {running['study']!r}; "
            "wait for it, or give this study another storage"
        )
    end = (
        f"wait for it, or end it: `ray dashboard CLUSTER.yaml`, and meanwhile `{_stop_command(id)}`. A launch after "
        "that goes on from what it finished"
    )
    if running["options"] != wanted["options"]:
        with_these, without = (
            f"with `{options['options']}`" if options["options"] else "without options" for options in (running, wanted)
        )
        raise ValueError(
            f"job {id} of this study runs on the storage {storage}, launched {with_these}; launching {without} does "
            f"not change it. Launch {with_these} to follow it, {end}"
        )
    if running["study_sha256"] != wanted["study_sha256"]:
        raise ValueError(
            f"job {id} runs the study {wanted['study']!r} on the storage {storage} as its file was before it was "
            f"changed. Undo the changes to follow it, {end}"
        )


def _stop_command(id: str) -> str:
    return f"RAY_AUTH_MODE=token ray job stop {id} --address http://127.0.0.1:8265"


def _running(client: Any, storage: str) -> Any | None:
    """The launch that runs on a storage, if there is one."""
    for job in _jobs(client):
        if (job.metadata or {}).get("storage") == storage and not job.status.is_terminal():
            return job
    return None


def _jobs(client: Any) -> list[Any]:
    """The jobs that the cluster knows.

    Raises:
        ConnectionError: it does not tell them.
    """
    try:
        return list(client.list_jobs())
    except RuntimeError as error:
        raise ConnectionError(f"the cluster does not tell its jobs: {error}") from error


def _submit(client: Any, submission: Submission) -> tuple[str, Upload]:
    """The id of a new job, and the code that went along."""
    id = f"{file_name(submission.name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    command = ["python", "-m", "study", "launch", STUDY_FILE, "--address", "auto", "--storage", submission.storage]
    with private_folder() as folder:
        tree = folder / "tree"
        sent = write_tree(tree, submission.text)
        _submit_when_ready(
            client,
            entrypoint=shlex.join([*command, *submission.options]),
            submission_id=id,
            metadata=submission.metadata(),
            runtime_env={"working_dir": str(tree), "env_vars": job_variables(id, os.environ)},
        )
    return id, sent


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


@dataclass
class _Followed:
    """How many characters of a job's output are printed, and when the job was last heard of, by the monotonic clock."""

    printed: int
    heard_at: float


def _follow(cluster: str, id: str, say: Say) -> int:
    """Print what a job says until it ends; a connection that breaks is made again.

    Raises:
        ValueError: the cluster does not know the job, or nothing was heard of it for `LOST_SECONDS`.
    """
    followed = _Followed(0, time.monotonic())
    while True:
        try:
            with dashboard(cluster) as url:
                client = job_client(url)
                job = _find(client, id)
                if job is not None:
                    asyncio.run(_print_logs(client, id, followed))
                    job = _find(client, id)
        except (OSError, ValueError) as error:
            if time.monotonic() - followed.heard_at > LOST_SECONDS:
                raise ValueError(f"lost sight of job {id}: {error}. Launch again to find it, or to go on") from error
            say("the connection is lost; trying again")
            time.sleep(RETRY_SECONDS)
            continue
        if job is None:
            raise ValueError(
                f"job {id} is not known to the cluster any more: its head was replaced. What has a record is kept; "
                "launch again to go on"
            )
        followed.heard_at = time.monotonic()
        if job.status.is_terminal():
            if job.driver_exit_code is None:
                say(f"job {id} {job.status.value.lower()}: {job.message}")
            return 1 if job.driver_exit_code is None else int(job.driver_exit_code)
        time.sleep(1.0)


def _find(client: Any, id: str) -> Any | None:
    """A job, or None if the cluster does not know it."""
    return next((job for job in _jobs(client) if job.submission_id == id), None)


async def _print_logs(client: Any, id: str, followed: _Followed) -> None:
    """Print what is not yet printed of a job's output, until the job ends or is silent.

    Raises:
        ConnectionError: the connection ended before the job.
    """
    import aiohttp

    read, texts = 0, client.tail_job_logs(id)
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                text = await anext(texts)
            fresh = text[max(0, followed.printed - read) :]
            read += len(text)
            print(fresh, end="", flush=True)
            followed.printed = max(followed.printed, read)
            followed.heard_at = time.monotonic()
    except (StopAsyncIteration, TimeoutError):
        return
    except (RuntimeError, aiohttp.ClientError) as error:
        raise ConnectionError(str(error)) from error
    finally:
        await texts.aclose()
