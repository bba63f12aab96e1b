"""Launching a study: shards are made if they are missing, then one Tuner runs every trial that has no record yet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reports.records import Failure, read_failures, read_records, record_ids
from reports.storage import Storage
from study.cluster import check_storage_is_shared, git_state, ray_cluster, room_for_workers
from study.config import Study
from study.failures import note_death
from study.images import ShardedImages, check_source, find_images, make_images
from study.lease import lease
from study.plan import ExpectedImages, Plan, PlannedTrial, make_plan
from study.trial import canonical_json


@dataclass(frozen=True)
class Launched:
    """How a launch ended: the plan with all that is finished now, failures by trial id, trials skipped for a parent."""

    plan: Plan
    failures: dict[str, Failure]
    skipped: list[str]

    @property
    def complete(self) -> bool:
        return not self.plan.missing()


def launch(study: Study, storage: Storage, address: str | None, display: Any) -> Launched:
    """Run what is missing; launching again resumes.

    Everything that can be wrong with the study is found before a trial starts.

    Raises:
        ValueError: bad input, a storage that cannot be written, data that changed, resources that the cluster lacks.
    """
    storage.check_readable()
    images = find_images(study, storage)
    plan = finished_plan(study, storage, images)  # first, because a study that cannot be planned costs nothing
    storage.check_writable()
    check_source(study, storage)
    if not plan.missing():
        return Launched(plan, {}, [])
    with lease(storage, study.name), ray_cluster(address, storage):
        if address is not None:
            check_storage_is_shared(storage)
        if not isinstance(images, ShardedImages):
            display.say(f"sharding {study.data.source} for {study.name}")
            images = make_images(study, storage)
            plan = finished_plan(study, storage, images)
        skipped = run_plan(plan, storage, images, display, may_grow=address is not None)
    plan = finished_plan(study, storage, images)
    failures, _ = read_failures(storage, plan.missing())
    return Launched(plan, {failure.id: failure for failure in failures}, skipped)


def finished_plan(study: Study, storage: Storage, images: ShardedImages | ExpectedImages) -> Plan:
    """The plan with its finished trials, each checked to be the result of this very specification and data.

    Raises:
        ValueError: a record in storage that cannot be read, or that is of other data.
    """
    plan = make_plan(study, images, record_ids(storage))
    records, problems = read_records(storage, plan.finished)
    if problems:
        listed = "\n".join(f"  {problem.path}: {problem.reason}" for problem in problems)
        raise ValueError(f"these records cannot be read; delete or restore them:\n{listed}")
    for record in records:
        if isinstance(images, ShardedImages) and record.data.fingerprint != images.manifest.fingerprint:
            raise ValueError(
                f"the data set {study.data.name!r} changed under this study: the record of {record.id} is of data with "
                f"fingerprint {record.data.fingerprint[:12]}, the shards in {images.shards} have "
                f"{images.manifest.fingerprint[:12]}. Restore the shards, or give the changed data another data.name"
            )
        same = canonical_json(record.spec.model_dump(mode="json")) == canonical_json(
            plan.trials[record.id].spec.plain()
        )
        assert same, f"two specifications share the id {record.id}"
    return plan


def run_plan(plan: Plan, storage: Storage, images: ShardedImages, display: Any, *, may_grow: bool) -> list[str]:
    """Run every missing trial of a plan; returns the ids that were skipped because a parent failed.

    `may_grow`: the cluster may get more nodes than it has now.
    """
    from ray import tune

    from study.display import OnStep
    from study.execute import run_trial
    from study.reporting import REFRESH_SECONDS, refreshing
    from study.schedule import GraphSearcher

    execution, launched_at = plan.study.execution, datetime.now(UTC)
    commit, dirty = git_state()
    room = room_for_workers(execution.per_worker)
    max_workers = worker_slots(plan, room, may_grow=may_grow)
    if room < 1:
        display.say(f"no node has room for {execution.per_worker} now: waiting for the cluster to grow")
    searcher = GraphSearcher(
        plan,
        make_config=lambda trial: {"job": _job(trial, plan.study, storage, images, commit, dirty)},
        has_record=lambda id: storage.exists("records", f"{id}.json"),
        max_workers=max_workers,
    )
    one = _booked_by_trial(execution.per_worker)

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([one if config["job"]["workers"] == 1 else {"CPU": 0.01}])

    with (
        tempfile.TemporaryDirectory(prefix="labelscale-tune-") as scratch,
        display.following(searcher, storage) as callback,
        refreshing(plan, storage) as report,
    ):
        refresh = OnStep(lambda: report.refresh(ended(searcher)), REFRESH_SECONDS)
        tuner = tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=len(plan.missing()),
                max_concurrent_trials=max_workers,
                metric="finished",
                mode="max",
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=scratch,  # trials report no files, so only this process writes there
                verbose=0,
                callbacks=[callback, refresh],
            ),
        )
        tuner.fit()
    for id, state in searcher.states.items():
        if state == "failed":
            note_death(storage, id, launched_at)
    return [id for id, state in searcher.states.items() if state == "skipped"]


def ended(searcher: Any) -> int:
    """Trials that are done, failed or skipped."""
    return sum(state not in ("waiting", "running") for state in searcher.states.values())


def _job(
    trial: PlannedTrial, study: Study, storage: Storage, images: ShardedImages, commit: str, dirty: bool
) -> dict[str, Any]:
    """A trial's job as plain JSON types; `execute.Job` types it again on the other side."""
    fraction = getattr(trial.spec.settings, "label_fraction", None)
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


def _booked_by_trial(per_worker: dict[str, float]) -> dict[str, float]:
    from study.execute import booked

    return {"CPU": 0.0, **booked(per_worker)}


def worker_slots(plan: Plan, room: int, *, may_grow: bool) -> int:
    """How many workers may be in flight: the study's cap, and on a cluster that cannot grow no more than there is room.

    Raises:
        ValueError: a trial asks for more workers than there may ever be.
    """
    execution = plan.study.execution
    cap = execution.max_workers
    slots = room if cap is None else cap if may_grow else min(cap, room)
    widest = max(plan.missing().values(), key=lambda trial: trial.workers)
    if widest.workers > slots:
        raise ValueError(
            f"{widest.id} asks for {widest.workers} workers of {execution.per_worker}, but there is room for {slots}; "
            "lower execution.workers or execution.per_worker, launch on a bigger cluster, or set execution.max_workers "
            "for a cluster that grows on demand"
        )
    return slots
