"""What is done, runs, was interrupted or failed, as `status` prints it; from storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from reports.message import printable
from reports.progress import Progress, read_progresses
from reports.records import Failure
from reports.storage import Storage
from reports.stored import read_failures
from study.bad_files import tell_bad_files
from study.claim import DriverClaim, living_driver
from study.end_of_launch import print_where_report_is
from study.plan import Plan
from trainables.spec import STAGES

STATES = ("done", "running", "interrupted", "waiting", "failed")


@dataclass(frozen=True)
class Status:
    """What storage holds of a plan's trials, by id: who runs, `progress` of those begun, failures; the `driver` of the
    launch that lives, if one does."""

    plan: Plan
    progress: Mapping[str, Progress]
    running: frozenset[str]
    failed: Mapping[str, Failure]
    driver: DriverClaim | None

    def state(self, id: str) -> str:
        for state, ids in (
            ("done", self.plan.finished),
            ("failed", self.failed),
            ("running", self.running),
            ("interrupted", self.progress),
        ):
            if id in ids:
                return state
        return "waiting"

    def counts(self) -> dict[str, Counter[str]]:
        """States by stage."""
        table: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        for id, trial in self.plan.trials.items():
            table[trial.spec.stage][self.state(id)] += 1
        return {stage: counts for stage, counts in table.items() if counts}


def read_status(plan: Plan, storage: Storage) -> Status:
    """Look at a storage. A trial runs if it says so and the launch lives that runs it. Bad files are told of."""
    begun = set(storage.list("checkpoints"))
    progress, problems = read_progresses(storage, (id for id in plan.missing() if id in begun))
    tell_bad_files("a trial's progress", problems)
    driver = living_driver(storage)
    running = frozenset(id for id, known in progress.items() if driver is not None and known.is_of(driver.since))
    failures, problems = read_failures(storage, plan.missing().keys() - running)
    tell_bad_files("a trial's failure", problems)
    return Status(plan, progress, running, {failure.id: failure for failure in failures}, driver)


def print_status(status: Status, storage: Storage) -> int:
    """Print the states of a plan's trials; 0 if all are finished, with where their report is."""
    plan = status.plan
    print(f"{'stage':<12}" + "".join(f"{state:>12}" for state in STATES))
    for stage, counts in status.counts().items():
        print(f"{stage:<12}" + "".join(f"{counts[state]:>12,}" for state in STATES))
    for id, known in status.progress.items():
        if id in status.running:
            print(f"running: {id}: {known.share:.0%} of its steps")
        elif id not in status.failed:
            share, saved = (f"{one * 100:.0f} %" for one in (known.share, known.saved))
            print(f"interrupted at {share}{'' if saved == share else f', saved at {saved}'}: {id}")
    for known in status.progress.values():
        if known.note:
            print(printable(f"note: {known.note}"))
    for id, failure in status.failed.items():
        print(printable(f"failed: {id}: {failure.error_type}: {failure.message}"))
    for choice in plan.open_choices:
        print(f"to be decided: {choice.id}")
    if not plan.complete:
        return 1
    print_where_report_is(storage, plan.study.name)
    return 0
