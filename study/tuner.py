"""A schedule as one run of Ray Tune: what each trial is told, and what it books."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.storage import Storage
from study.budget import Budget
from study.cluster import git_state, keep_shared_actors_here, ray_nodes
from study.consequences import Underway, next_trial, trial_ended, trial_reported
from study.ending import ending
from study.images import ShardedImages
from study.job import Job
from study.plan import PlannedTrial
from study.running import READ_SECONDS, Notes, following
from study.schedule import Schedule
from study.stopping import LOOK_SECONDS, Stopping
from study.throughput import Throughput

if TYPE_CHECKING:  # these import Ray, whose settings a launch makes first
    from ray import tune

    from study.display import Display
    from study.searcher import GraphSearcher


@dataclass(frozen=True)
class Run:
    """The trials of a launch with all that they are told; `throughput` predicts what they take.

    `scratch` is a folder that goes with the launch. On a cluster that `grows` no process is kept for the next trial: it
    would keep its node, too.
    """

    underway: Underway
    images: ShardedImages
    throughput: Throughput
    launched_at: datetime
    grows: bool
    scratch: Path


def run_schedule(run: Run, display: Display) -> None:
    """Run the trials of a schedule as trials of one Ray Tune run."""
    from study.display import PLAIN_SECONDS, OnStep
    from study.reporting import REFRESH_SECONDS, refreshing
    from study.watch import Watch

    schedule, budget, storage = run.underway.schedule, run.underway.budget, run.underway.storage
    launch = run.launched_at.isoformat()
    if run.grows:
        keep_shared_actors_here()
    with (
        tempfile.TemporaryDirectory(prefix="tune-", dir=run.scratch) as scratch,
        following(Storage(storage.root), lambda: running(schedule)) as follower,
        display.following(schedule, lambda: follower.known, run.throughput.wall_seconds_of_alike) as callback,
        refreshing(run.underway.growth.plan, storage, launch) as report,
    ):

        def note_training(budget: Budget) -> None:
            known, living = follower.known, {node["NodeID"] for node in ray_nodes(alive=True)}
            training = {id for id, one in known.items() if one.launch == launch and one.node in living}
            budget.note_training(lambda id: id in training)

        def refresh() -> None:
            report.refresh(ended(schedule), schedule.trials, running=bool(running(schedule)))

        callbacks: list[tune.Callback] = [
            Watch(storage, display.say),
            OnStep(Notes(display.say, follower).look, READ_SECONDS),
        ]
        if budget is not None:
            callbacks.append(OnStep(lambda: note_training(budget), PLAIN_SECONDS))
        stopping = Stopping(launch, lambda: running(schedule), follower)
        callbacks += [
            OnStep(stopping.look, LOOK_SECONDS),
            callback,
            OnStep(refresh, REFRESH_SECONDS),
        ]
        with ending.gently():
            _tuner(run, callbacks, stopping.look, scratch).fit()


def running(schedule: Schedule) -> list[str]:
    """Ids of the trials that run; another thread may ask while the schedule grows."""
    return [id for id, state in list(schedule.states.items()) if state == "running"]


def ended(schedule: Schedule) -> int:
    """Trials that are done, pruned, failed or skipped."""
    return sum(state not in ("waiting", "running") for state in schedule.states.values())


def _tuner(run: Run, callbacks: list[tune.Callback], attend: Callable[[], None], scratch: str) -> tune.Tuner:
    from ray import tune

    from study.execute import run_trial
    from study.gang import booked_by_trial

    execution = run.underway.growth.plan.study.execution

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([booked_by_trial(execution.per_worker, config["job"]["workers"])])

    return tune.Tuner(
        tune.with_resources(run_trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(run, attend),
            num_samples=-1,  # until the schedule says that it is at its end
            max_concurrent_trials=run.underway.schedule.max_workers,
            metric="finished",
            mode="max",
            reuse_actors=not run.grows,
        ),
        run_config=tune.RunConfig(
            name="study",
            storage_path=scratch,  # trials report no files, so only this process writes there
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=execution.preemption_retries + execution.crash_retries),
            callbacks=callbacks,
        ),
    )


def _searcher(run: Run, attend: Callable[[], None]) -> GraphSearcher:
    """Who hands out a run's trials, and ends those that are pruned."""
    from study.searcher import GraphSearcher

    underway, (commit, dirty) = run.underway, git_state()

    def make_config(trial: PlannedTrial) -> dict[str, Any]:
        return {"job": job_of(trial, run, commit, dirty).model_dump(mode="json")}

    def judge(id: str, result: dict[str, Any]) -> None:
        trial_reported(underway, id, result["rung"], result["dev_top1"], result["seconds"])

    return GraphSearcher(lambda: next_trial(underway), lambda id: trial_ended(underway, id), make_config, judge, attend)


def job_of(trial: PlannedTrial, run: Run, commit: str, dirty: bool) -> Job:
    """What a worker is told of a trial of this launch."""
    growth, images, study = run.underway.growth, run.images, run.underway.growth.plan.study
    fraction, expected = trial.spec.labels_read, run.throughput.seconds(trial)
    return Job(
        id=trial.id,
        study=study.name,
        trial=trial.spec.plain(),
        storage=run.underway.storage.root,
        shards=images.shards,
        workers=trial.workers,
        per_worker=dict(study.execution.per_worker),
        tf32=study.execution.tf32,
        channels_last=study.execution.channels_last,
        min_effective_rank=study.execution.min_effective_rank,
        checkpoint_seconds=study.execution.checkpoint_seconds,
        steps=trial.steps,
        rungs=growth.rungs(trial.id),
        selections=[decision.plain() for decision in growth.expansion.decisions.get(trial.id, ())],
        fingerprint=images.manifest.fingerprint,
        subset_hash=None if fraction is None else images.subset_hash(fraction),
        train_flops=float(trial.train_flops),
        planned_device_seconds=None if math.isnan(expected) else expected,
        launched_at=run.launched_at.isoformat(),
        preemption_retries=study.execution.preemption_retries,
        crash_retries=study.execution.crash_retries,
        commit=commit,
        dirty=dirty,
    )
