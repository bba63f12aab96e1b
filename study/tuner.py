"""A schedule as one run of Ray Tune: what each trial is told, and what it books."""

from __future__ import annotations

import math
import tempfile
from datetime import datetime
from typing import Any

from reports.storage import Storage
from study.budget import Budget
from study.cluster import git_state
from study.config import Study
from study.growth import Growth
from study.images import ShardedImages
from study.plan import PlannedTrial
from study.progress import read_progress
from study.schedule import Schedule
from study.throughput import Throughput


def run_schedule(
    schedule: Schedule,
    growth: Growth,
    storage: Storage,
    images: ShardedImages,
    display: Any,
    launched_at: datetime,
    throughput: Throughput,
    budget: Budget | None,
    *,
    grows: bool,
) -> None:
    """Run the trials of a schedule as trials of one Ray Tune run.

    On a cluster that `grows` no process is kept for the next trial: it would keep its node, too.
    """
    from ray import tune

    from study.display import PLAIN_SECONDS, OnStep
    from study.execute import run_trial
    from study.gang import booked_by_trial
    from study.reporting import REFRESH_SECONDS, refreshing
    from study.searcher import GraphSearcher

    study, (commit, dirty) = growth.plan.study, git_state()

    def make_config(trial: PlannedTrial) -> dict[str, Any]:
        growth.evidence.forget_mark(trial.id)
        if budget is not None:
            budget.started(trial)
        job = _job(trial, study, storage, images, commit, dirty)
        decisions, expected = growth.expansion.decisions.get(trial.id, ()), throughput.seconds(trial)
        more = {
            "selections": [decision.plain() for decision in decisions],
            "rungs": growth.rungs(trial.id),
            "launched_at": launched_at.isoformat(),
            "preemption_retries": study.execution.preemption_retries,
            "planned_device_seconds": None if math.isnan(expected) else expected,
        }
        return {"job": {**job, **more}}

    def judge(id: str, result: dict[str, Any]) -> None:
        if growth.prune(id, result["rung"], result["dev_top1"]):
            growth.evidence.mark_pruned(id, result["seconds"])

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([booked_by_trial(study.execution.per_worker, config["job"]["workers"])])

    def has_begun(id: str) -> bool:
        progress = read_progress(storage, id)
        return progress is not None and progress.launch == launched_at.isoformat()

    callbacks: list[tune.Callback] = []
    if budget is not None:
        callbacks.append(OnStep(lambda: budget.note_begun(has_begun), PLAIN_SECONDS))
    with (
        tempfile.TemporaryDirectory(prefix="labelscale-tune-") as scratch,
        display.following(schedule, storage) as callback,
        refreshing(growth.plan, storage) as report,
    ):
        callbacks += [callback, OnStep(lambda: report.refresh(ended(schedule), schedule.trials), REFRESH_SECONDS)]
        tuner = tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=GraphSearcher(schedule, make_config, judge),
                num_samples=-1,  # until the schedule says that it is at its end
                max_concurrent_trials=schedule.max_workers,
                metric="finished",
                mode="max",
                reuse_actors=not grows,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=scratch,  # trials report no files, so only this process writes there
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=study.execution.preemption_retries),
                callbacks=callbacks,
            ),
        )
        tuner.fit()


def ended(schedule: Schedule) -> int:
    """Trials that are done, failed or skipped."""
    return sum(state not in ("waiting", "running") for state in schedule.states.values())


def _job(
    trial: PlannedTrial, study: Study, storage: Storage, images: ShardedImages, commit: str, dirty: bool
) -> dict[str, Any]:
    """A trial's job as plain JSON types; `execute.Job` types it again on the other side."""
    fraction = trial.spec.labels_read
    return {
        "id": trial.id,
        "study": study.name,
        "trial": trial.spec.plain(),
        "storage": storage.root,
        "shards": images.shards,
        "workers": trial.workers,
        "per_worker": dict(study.execution.per_worker),
        "tf32": study.execution.tf32,
        "channels_last": study.execution.channels_last,
        "min_effective_rank": study.execution.min_effective_rank,
        "checkpoint_seconds": study.execution.checkpoint_seconds,
        "steps": trial.steps,
        "fingerprint": images.manifest.fingerprint,
        "subset_hash": None if fraction is None else images.subset_hash(fraction),
        "train_flops": float(trial.train_flops),
        "commit": commit,
        "dirty": dirty,
    }
