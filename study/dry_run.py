"""What a launch would run: `launch --dry-run`."""

from __future__ import annotations

import sys

from reports.storage import Storage
from study.end_of_launch import print_where_report_is
from study.failures import failed_for_good
from study.plan import Plan, PlannedTrial
from study.schedule import Schedule
from study.wanted import LaunchOptions, check_only, wanted_trials


def print_dry_run(plan: Plan, storage: Storage, options: LaunchOptions) -> int:
    """Print the trials that a launch would run, in the order in which it would start them; or that all are finished."""
    check_only(plan, options)
    wanted = wanted_trials(plan, options)
    failed = {} if options.retry_failed else failed_for_good(storage, plan.missing())
    schedule = Schedule(plan.part(wanted), sys.maxsize, given_up=failed)
    while isinstance(trial := schedule.next(), PlannedTrial):
        print(f"{trial.id}  {trial.train_flops:.2e} FLOPs")
        schedule.ended(trial.id, "done")
    for id, failure in failed.items():
        if id in wanted:
            print(f"left alone: {id} failed before ({failure.error_type}); --retry-failed tries it again")
    for choice in plan.open_choices:
        print(f"to be decided: {choice.id}, which adds trials when its candidates have results")
    if plan.exploring:
        print("the exploration goes on: it may pick more cells of the grid")
    elif wanted <= plan.finished and not plan.open_choices:
        print(f"nothing to run: {_finished(len(wanted), part=wanted < plan.trials.keys())}")
        print_where_report_is(storage, plan.study.name)
    return 0


def _finished(number: int, *, part: bool) -> str:
    of_part = " of this part" if part else ""
    return f"the one trial{of_part} is finished" if number == 1 else f"all {number:,} trials{of_part} are finished"
