"""`status --follow`: how the trials that run are getting on, until all is done; from storage alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import rich.console
import rich.live
import rich.table

from reports.message import printable
from reports.running import facts
from reports.storage import Storage
from reports.stored import record_ids
from study.plan import Plan
from study.status import STATES, Status, print_status, read_status

LOOK_SECONDS = 5.0
"""Seconds between two looks; running trials write how far they are as often."""

PLAIN_SECONDS = 10.0
"""Where there is no terminal, lines are printed this often."""

LISTED = 30
"""Running trials of which a line is shown."""

RESTS = 10.0
"""A plan takes a while, since it reads all records: the next one is made after this many times as long."""


class Plans:
    """A study's plan as it is now: read anew when records are new, but not all the time."""

    def __init__(self, make: Callable[[], Plan], storage: Storage) -> None:
        self._make, self._storage = make, storage
        self._records: set[str] | None = None
        self._not_before = 0.0

    def now(self) -> Plan:
        """Between two readings, records of known trials are taken to be valid."""
        records, began = record_ids(self._storage), time.monotonic()
        if self._records is None or (records != self._records and began >= self._not_before):
            self._plan, self._records = self._make(), records
            self._not_before = time.monotonic() + RESTS * (time.monotonic() - began)
        return replace(self._plan, finished=self._plan.finished | (records & self._plan.trials.keys()))

    def fresh(self) -> Plan:
        """The plan of this moment."""
        return self._make()


def follow(make_plan: Callable[[], Plan], storage: Storage, console: rich.console.Console) -> int:
    """Show how trials are getting on until all are finished, no launch runs any more, or Ctrl-C; 0 if all are finished.

    In a terminal that is a table which is drawn again, elsewhere lines.
    """
    plans = Plans(make_plan, storage)
    last = None
    try:
        with _showing(console) as show:
            while _goes_on(last := read_status(plans.now(), storage)):
                show(last)
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return 0 if last is not None and last.plan.complete else 1
    code = print_status(read_status(plans.fresh(), storage), storage)
    if code:
        print("no launch of this study runs now; `python -m study launch` goes on")
    return code


def _goes_on(status: Status) -> bool:
    """Whether a launch lives that runs these trials: this study's, or another's that shares trials with it."""
    if status.plan.complete or status.driver is None:
        return False
    return bool(status.running) or status.driver.study in ("", status.plan.study.name)


@contextmanager
def _showing(console: rich.console.Console) -> Iterator[Callable[[Status], None]]:
    """What shows a status: on the terminal, or as lines from time to time."""
    if console.is_terminal:
        with rich.live.Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda status: live.update(table(status), refresh=True)
        return
    said_at = float("-inf")

    def say(status: Status) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= PLAIN_SECONDS:
            for line in lines(status):
                print(printable(line), flush=True)
            said_at = time.monotonic()

    yield say


def lines(status: Status) -> list[str]:
    """What is shown where there is no terminal: the counts, then a line for each running trial."""
    listed = _listed(status)
    told = []
    for id, known in listed.items():
        told.append(f"  {id}: {', '.join(f'{name} {value}' for name, value in known.items() if value)}")
    return [f"{time.strftime('%H:%M:%S')}  {_counts(status)}", *told, *_more(status)]


def table(status: Status) -> rich.table.Table:
    """What is shown in a terminal: a row for each running trial."""
    more = "".join(f"\n{line.strip()}" for line in _more(status))
    drawn = rich.table.Table(caption=f"{_counts(status)}{more}")
    drawn.add_column("trial", overflow="fold")
    listed = _listed(status)
    for name in next(iter(listed.values()), {}):
        drawn.add_column(name, justify="right")
    for id, known in listed.items():
        drawn.add_row(id, *known.values())
    return drawn


def _listed(status: Status) -> dict[str, dict[str, str]]:
    return {id: facts(status.progress[id]) for id in sorted(status.running)[:LISTED]}


def _more(status: Status) -> list[str]:
    return [f"  and {len(status.running) - LISTED:,} more that run"] if len(status.running) > LISTED else []


def _counts(status: Status) -> str:
    total = sum(status.counts().values(), Counter[str]())
    return ", ".join(f"{total[state]:,} {state}" for state in STATES if total[state])
