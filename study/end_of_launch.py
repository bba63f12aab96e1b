"""What a launch says at its end, and what is said of a study that is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.file_name import file_name
from reports.message import complain, printable
from reports.storage import Storage
from study.failures import TRIED_AGAIN

if TYPE_CHECKING:
    from reports.results import Results
    from study.launch import Launched


def print_answer(results: Results) -> None:
    """Print the sentences with which the report begins, and of how many trials they are if some are missing."""
    from reports.answer import answer

    lacking = len(results.study.planned) - results.finished
    so_far = f" so far, from {results.finished:,} of {len(results.study.planned):,} trials" if lacking > 0 else ""
    for group in results.groups:
        print(printable(f"\nAnswer{group.title}{so_far}:"))
        for sentence in answer(group.trials):
            print(printable(f"  {sentence}".replace("\u00a0", " ")))
    print(flush=True)


def print_where_report_is(storage: Storage, study: str) -> None:
    """Print where a finished study's report is, or how to have it written."""
    name = f"{file_name(study)}.html"
    if storage.exists("reports", name):
        print(f"report: {storage.uri('reports', name)}")
    else:
        print("its report is not written yet: `python -m study report` or another launch writes it")


def say_what_is_missing(launched: Launched) -> None:
    """Say what failed, what was skipped for it, what could not be decided, and how to go on."""
    for id, failure in launched.failures.items():
        complain(f"failed: {id}: {failure.error_type}: {failure.message}")
    for id in launched.skipped:
        if id in launched.plan.trials:
            complain(f"skipped: {id}: what it builds on has no result")
    for choice in launched.plan.open_choices:
        complain(f"not decided: {choice.id}: {len(choice.options)} candidates, not all with a result")
    missing, planned = len(launched.wanted - launched.plan.finished), len(launched.plan.trials)
    guilty = any(failure.error_type not in TRIED_AGAIN for failure in launched.failures.values())
    again = "mend what failed, then launch with --retry-failed" if guilty else "launch again to go on"
    complain(f"{missing} of {planned} trials have no record; {again}")
