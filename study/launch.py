"""Launching a study: shards are made if they are missing, then one Tuner runs every trial that has no record yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.audit import lacks_checksums
from reports.records import Failure
from reports.storage import Storage
from reports.stored import read_failures
from study.budget import Budget
from study.capacity import NodeTypes, living_nodes, node_types, room_for_workers, worker_slots
from study.cluster import check_storage_is_shared, ray_cluster
from study.config import Study
from study.consequences import get_underway
from study.estimate import throughput_here
from study.expectation import Expectation
from study.exploration import open_exploration
from study.failures import note_death
from study.growth import Growth
from study.hardware import with_worker
from study.images import ShardedImages, check_source, make_images, no_half_shards, shards_of
from study.known import Known, check_records, read_known
from study.lease import CUT_OFF_SECONDS, lease
from study.plan import Images, Plan, PlannedTrial, make_plan, planned_trial
from study.refusal import refusals_told
from study.throughput import Throughput, told_calibrations
from study.tuner import Run, run_schedule
from study.wanted import LaunchOptions, check_only, wanted_trials

if TYPE_CHECKING:  # it imports Ray
    from study.display import Display


@dataclass(frozen=True)
class Launched:
    """How a launch ended: the plan with all that is finished now, failures by trial id, trials skipped for a parent.

    `wanted` are the trials that the launch was to run, finished ones included.
    """

    plan: Plan
    failures: dict[str, Failure]
    skipped: list[str]
    wanted: set[str]

    @property
    def complete(self) -> bool:
        """Whether all that was wanted has a record, and all is decided that was to be chosen."""
        everything = self.wanted >= self.plan.trials.keys()
        return self.wanted <= self.plan.finished and (self.plan.complete or not everything)


def launch(
    study: Study, storage: Storage, address: str | None, display: Display, options: LaunchOptions | None = None
) -> Launched:
    """Run what is missing; launching again resumes.

    Everything that can be wrong with the study is found before images are sharded or a trial starts.

    Raises:
        ValueError: bad input, a storage that cannot be written, data that changed, resources that the cluster lacks.
        UnusableError: a storage or disk that refuses, at the start or later; what is finished is kept.
    """
    with refusals_told(storage):
        return _launch(study, storage, address, display, options or LaunchOptions())


def _launch(study: Study, storage: Storage, address: str | None, display: Display, options: LaunchOptions) -> Launched:
    storage.check_readable()
    known = read_known(study, storage, retry_failed=options.retry_failed)  # what cannot be planned costs nothing
    check_records(known.plan, known.images, known.records, known.problems)
    check_only(known.plan, options)
    storage.check_writable()
    check_source(study, storage)
    plan, skipped, say = known.plan, list[str](), display.say
    if wanted_trials(plan, options) - plan.finished or plan.open_choices or plan.exploring:
        shards = shards_of(study.data, storage)
        with lease(storage, study.name, say), no_half_shards(shards), ray_cluster(address, storage, say) as scratch:
            storage = Storage(storage.root, CUT_OFF_SECONDS)  # from here on trials run, which an outage does not end
            plan, skipped = run_missing(known, storage, scratch, address, display, options)
    failures, _ = read_failures(storage, plan.missing())
    return Launched(plan, {failure.id: failure for failure in failures}, skipped, wanted_trials(plan, options))


def run_missing(
    known: Known, storage: Storage, scratch: Path, address: str | None, display: Display, options: LaunchOptions
) -> tuple[Plan, list[str]]:
    """Run what has no record, once Ray runs and the storage is leased.

    What can be refused is refused first, then shards are made if there are none, then trials run. Returns the plan at
    the end, and the ids that were skipped.
    """
    if address is not None:
        check_storage_is_shared(storage)
    study, room = find_room(known.plan.study, whole_plan(known), display, may_grow=address is not None)
    evidence = known.evidence.read_again(storage)  # until the lease was ours, another launch may have written to it
    records, _ = evidence.records.read(evidence.done)
    throughput = throughput_here(study.execution, records, told_calibrations(storage))
    check_search_budgets(known.plan, known.images, throughput.seconds)
    if known.plan.exploring:
        open_exploration(study, known.images, evidence, throughput.seconds, dry=True)
    images = known.images
    if not isinstance(images, ShardedImages):
        display.say(f"sharding {study.data.source} for {study.name}")
        images = make_images(study, storage)
    elif lacks_checksums(images.manifest):
        display.say(f"rot in the shards goes unseen until `python -m study verify {images.shards}` adds checksums")
    growth = Growth(study, images, evidence, throughput.seconds)
    records, problems = evidence.records.read(growth.plan.finished)
    check_records(growth.plan, images, records, [*evidence.problems.values(), *problems])
    skipped = run_trials(growth, images, throughput, room, scratch, display, options)
    evidence = evidence.after_launch()
    return make_plan(study, images, evidence.done, evidence), skipped


def whole_plan(known: Known) -> Plan:
    """A plan with all that may come to be run: an exploration may pick any cell of its grid."""
    if not known.plan.exploring:
        return known.plan
    return make_plan(known.plan.study, known.images, known.evidence.done, known.evidence.of_whole_grid())


@dataclass(frozen=True)
class Room:
    """For how many workers the cluster has room, now or later; whether it `grows`, by nodes that can be given back."""

    max_workers: int
    grows: bool


def find_room(study: Study, plan: Plan, display: Display, *, may_grow: bool) -> tuple[Study, Room]:
    """The study, with what its workers ask for on this cluster, and the room for them; `may_grow`: by more nodes.

    Raises:
        ValueError: a trial that there will never be room for.
    """
    nodes = living_nodes()
    types = node_types(display.say) if may_grow else NodeTypes((), 0)
    started = () if types is None else types.types
    study = with_worker(study, [*nodes, *(node_type.resources for node_type in started)])
    max_workers = worker_slots(plan, study.execution, nodes, types, may_grow=may_grow)
    if room_for_workers(nodes, study.execution.per_worker) < 1:
        display.say(f"no node has room for {study.execution.per_worker} now: waiting for the cluster to grow")
    return study, Room(max_workers, grows=types is None or bool(started))


def check_search_budgets(plan: Plan, images: Images, seconds: Callable[[PlannedTrial], float]) -> None:
    """Refuse a search whose device-hours do not pay for a single sample, where its time is known.

    Raises:
        ValueError: what one sample takes.
    """
    for choice in plan.open_choices:
        if choice.search is None or choice.search.device_hours is None:
            continue
        trials = [planned_trial(choice.id, spec, plan.study.execution, images, plan.expected()) for spec in choice.base]
        hours = sum(map(seconds, trials)) / 3600
        if hours > choice.search.device_hours:
            raise ValueError(
                f"stages.{choice.stage}.search: device_hours {choice.search.device_hours:g} pay for no sample, one "
                f"takes about {hours:.2g} ({len(trials)} trainings); raise device_hours, or lower dev.folds"
            )


def run_trials(
    growth: Growth,
    images: ShardedImages,
    throughput: Throughput,
    room: Room,
    scratch: Path,
    display: Display,
    options: LaunchOptions,
) -> list[str]:
    """Run every missing trial of a study, and those that are known only when others are finished; returns the ids that
    were skipped because what they need failed. `throughput` predicts what trials take.
    """
    launched_at = datetime.now(UTC)
    evidence, execution = growth.evidence, growth.plan.study.execution
    given_up = set(growth.plan.missing()) & evidence.failed
    expectation, hours = Expectation(throughput.seconds), options.budget_gpu_hours
    budget = None if hours is None else Budget(hours, execution.per_worker, expectation)
    underway = get_underway(growth, options, given_up, room.max_workers, expectation, budget)
    schedule = underway.schedule
    for id in schedule.trials:
        if id in given_up:
            display.say(f"left alone, for it failed before: {id}; --retry-failed tries it again")
    run_schedule(Run(underway, images, throughput, launched_at, room.grows, scratch), display)
    if budget is not None:
        display.say(budget.summary(schedule.missing()))
    if growth.exploration is not None and growth.exploration.explorer.reason:
        display.say(f"the exploration picks no more cells: {growth.exploration.explorer.reason}")
    from study.killed import reason_of_silence  # here, as it needs ray

    for id, state in schedule.states.items():
        if state == "failed" and id not in given_up:
            note_death(evidence.storage, id, launched_at.isoformat(), reason_of_silence())
    return [id for id, state in schedule.states.items() if state == "skipped"]
