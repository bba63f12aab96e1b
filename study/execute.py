"""One trial on the machine where it runs: from a job to its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray import tune

from datasets.manifest import read_manifest
from datasets.object_store import OUTAGE_SECONDS, UnusableError
from datasets.schema import Manifest
from datasets.splits import subset_hash
from reports.storage import Storage
from reports.stored import clear_failure, read_record, write_record
from study.assigned import assignment_of
from study.capacity import rented_as
from study.evidence import pruned_mark
from study.failures import note_error
from study.gang import train_together
from study.interruption import deaths_before, launch_ends, this_node, watching
from study.job import Job
from study.killed import memory, noting_signals
from study.progress import Telling, clear_progress
from study.recording import record_of
from study.refusal import unusable
from study.trial import TrialSpec, parse_trial
from trainables.context import Context, InterruptedTrainingError, PrunedError, prepare_torch
from trainables.protocol import ProtocolError
from trainables.stages import run_stage

logger = logging.getLogger(__name__)


def run_trial(config: dict[str, Any]) -> None:
    """Ray Tune's trainable: one worker trains in this very process, which Tune reuses; several by Ray Train.

    A failure is written beside the trial's checkpoints and raised again, which ends this process and no other trial; a
    storage or disk that refuses is none, and ends the launch (`study.watch`).
    """
    id, storage = config["job"]["id"], Storage(config["job"]["storage"], OUTAGE_SECONDS)
    try:
        job = Job.model_validate(config["job"])
        if storage.exists("records", f"{id}.json"):  # an earlier attempt wrote it but crashed before cleaning up
            _clean_up(storage, id)
        elif (deaths := deaths_before(storage, id, job.launched_at, job.crash_retries)) is not None:
            if job.workers == 1:
                run_worker({**job.model_dump(), "deaths": deaths})
            else:
                _run_workers(job, storage, deaths)
    except PrunedError:
        clear_progress(storage, id)
        storage.delete("checkpoints", id, "latest.pt")
    except Exception as error:
        if not launch_ends(config["job"]["launched_at"]):  # a gang falls apart by that
            if (refusal := unusable(error, storage)) is not None:
                raise refusal from error
            _note(storage, id, error, config["job"]["launched_at"])
            raise
    tune.report({"finished": 1})


def _note(storage: Storage, id: str, error: Exception, launched_at: str) -> None:
    try:
        note_error(storage, id, error, launched_at)
        clear_progress(storage, id)
    except UnusableError:
        raise
    except OSError as unwritten:  # the launch notes that it ended without a word, which is tried again too
        logger.warning("the failure of %s could not be noted: %s", id, unwritten)


def _run_workers(job: Job, storage: Storage, deaths: int) -> None:
    train_together(
        run_worker,
        {**job.model_dump(), "deaths": deaths},
        job.workers,
        job.per_worker,
        storage,
        job.id,
        job.preemption_retries,
        job.crash_retries,
        lambda: launch_ends(job.launched_at),
    )


def run_worker(plain_job: dict[str, Any]) -> None:
    """Run a trial's stage on this worker; rank 0 writes the record, last."""
    job = Job.model_validate(plain_job)
    started_at, started = datetime.now(UTC), time.monotonic()
    storage = Storage(job.storage, OUTAGE_SECONDS)
    context = context_of(job, storage)
    telling = Telling(
        Storage(job.storage), job.id, job.launched_at, this_node(), job.deaths, memory, context.course.rows
    )
    if context.rank == 0:
        context.saved_step = round(telling.saved_before() * job.steps)
        context.report = lambda share: telling.tell(share, context.saved_step / job.steps)
        context.warn, context.note = telling.warn, telling.note
    spec = parse_trial(job.trial)
    manifest = read_manifest(job.shards, OUTAGE_SECONDS)
    check_images(job, spec, manifest)
    parent, sha256 = None, None
    if spec.parent is not None:
        parent = storage.uri("checkpoints", spec.parent, "model.pt")
        sha256 = read_record(storage, spec.parent).model.sha256
    assignment = assignment_of(spec, job.shards, manifest, parent, sha256)
    with watching(job.launched_at) as notices, noting_signals(job.id, context.rank):
        context.notice, context.ending = notices.goes.is_set, notices.ends.is_set
        try:
            outcome = run_stage(spec.stage, assignment, context)
        except InterruptedTrainingError:
            saved = context.saved_step / job.steps
            telling.write(saved, saved, ended=True)
            raise
    if outcome.progress.step != job.steps:
        raise ProtocolError(f"{job.id} made {outcome.progress.step} steps where {job.steps} were planned")
    if context.rank == 0:
        wall = time.monotonic() - started + outcome.progress.resumed_seconds
        write_record(storage, record_of(job, assignment, outcome, context, started_at, wall))
        _clean_up(storage, job.id)


def _clean_up(storage: Storage, id: str) -> None:
    """Delete what a trial's record makes useless; that it stays is no failure."""
    try:
        Context(storage.uri("checkpoints", id)).delete_checkpoint()
        clear_failure(storage, id)
        clear_progress(storage, id)
    except OSError as error:
        logger.warning("%s is finished, and files that it no longer needs could not be deleted: %s", id, error)


def check_images(job: Job, spec: TrialSpec, manifest: Manifest) -> None:
    """Refuse shards whose images or labelled subset are not those that were planned with.

    Raises:
        ProtocolError: they are others.
    """
    fraction = spec.labels_read
    found = manifest.fingerprint, None if fraction is None else subset_hash(job.shards, manifest, fraction)
    if found != (job.fingerprint, job.subset_hash):
        raise ProtocolError(
            f"{job.id}: the shards in {job.shards} are not those that the launch planned with (fingerprint and hash of "
            f"the labelled rows {found}, planned {(job.fingerprint, job.subset_hash)}); launch again"
        )


def context_of(job: Job, storage: Storage) -> Context:
    """The context of this worker, for which torch is prepared: rank and device from Ray Train if it runs here, else one
    process."""
    distributed = torch.distributed.is_initialized()
    rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    assert world_size == job.workers, f"{world_size} ranks for {job.workers} workers"
    prepare_torch(job.per_worker, tf32=job.tf32)
    if "GPU" in job.per_worker:
        device = ray.train.torch.get_device() if distributed else torch.device("cuda")
    else:
        device = torch.device("cpu")
    return Context(
        folder=storage.uri("checkpoints", job.id),
        rank=rank,
        world_size=world_size,
        device=device,
        channels_last=job.channels_last,
        min_effective_rank=job.min_effective_rank,
        checkpoint_seconds=job.checkpoint_seconds,
        rungs=job.rungs,
        judge=_judge(job, storage) if job.rungs else None,
        node_type=rented_as() or "",
    )


def _judge(job: Job, storage: Storage) -> Callable[[int, float, float], None]:
    """A function that tells the launch a trial's accuracy, and ends the trial if the launch says so.

    By the time that `tune.report` returns, the launch has seen the report and left its verdict in storage.
    """

    def judge(step: int, dev_top1: float, seconds: float) -> None:
        rung = step * job.rungs // job.steps
        tune.report({"finished": 0, "rung": rung, "dev_top1": dev_top1, "seconds": seconds})
        if storage.exists(*pruned_mark(job.id)):
            raise PrunedError(f"{job.id} was stopped at step {step}: others of its search are better by then")

    return judge
