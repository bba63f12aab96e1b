"""What is done, runs, was interrupted or failed, as `status` prints it; from storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from reports.message import printable
from reports.storage import Storage
from reports.stored import read_failures
from study.bad_files import tell_bad_files
from study.claim import living_driver
from study.end_of_launch import print_where_report_is
from study.plan import Plan
from study.running import read_progresses
from trainables.spec import STAGES

STATES = ("done", "running", "interrupted", "waiting", "failed")


def print_status(plan: Plan, storage: Storage) -> int:
    """Print the states of a plan's trials; 0 if all are finished, with where their report is.

    A trial runs if it says so and the launch lives that runs it.
    """
    begun = set(storage.list("checkpoints"))
    progress, problems = read_progresses(storage, (id for id in plan.missing() if id in begun))
    tell_bad_files("a trial's progress", problems)
    driver = living_driver(storage) if progress else None
    running = {id for id, known in progress.items() if driver is not None and known.is_of(driver.since)}
    failures, problems = read_failures(storage, plan.missing().keys() - running)
    tell_bad_files("a trial's failure", problems)
    failed = {failure.id: failure for failure in failures}
    table: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    for id, trial in plan.trials.items():
        table[trial.spec.stage][_state(id, plan.finished, failed, running, progress)] += 1
    print(f"{'stage':<12}" + "".join(f"{state:>12}" for state in STATES))
    for stage, counts in table.items():
        if counts:
            print(f"{stage:<12}" + "".join(f"{counts[state]:>12,}" for state in STATES))
    for id, known in progress.items():
        if id in running:
            print(f"running: {id}: {known.share:.0%} of its steps")
        elif id not in failed:
            share, saved = (f"{one * 100:.0f} %" for one in (known.share, known.saved))
            print(f"interrupted at {share}{'' if saved == share else f', saved at {saved}'}: {id}")
    for known in progress.values():
        if known.note:
            print(printable(f"note: {known.note}"))
    for id, failure in failed.items():
        print(printable(f"failed: {id}: {failure.error_type}: {failure.message}"))
    for choice in plan.open_choices:
        print(f"to be decided: {choice.id}")
    if not plan.complete:
        return 1
    print_where_report_is(storage, plan.study.name)
    return 0


def _state(
    id: str, finished: Container[str], failed: Container[str], running: Container[str], begun: Container[str]
) -> str:
    for state, ids in (("done", finished), ("failed", failed), ("running", running), ("interrupted", begun)):
        if id in ids:
            return state
    return "waiting"
