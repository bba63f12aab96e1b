"""Everything that a report arranges: the study, its records in comparable groups, failures, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from reports.claims import Claim, claims
from reports.efficiency import label_efficiency
from reports.fits import Fit, Refusal, fits
from reports.next_experiment import ReportedTrial, Suggestion, next_experiments
from reports.pareto import candidates, fronts
from reports.prices import Money, Prices, money, read_prices, resources_used
from reports.progress import Progress
from reports.records import Failure, Problem, Record
from reports.tables import group_by_data, trials


@dataclass(frozen=True)
class StudyInfo:
    """What the report is about: the study's name, its question, and its planned trials by id."""

    name: str
    question: str
    planned: Mapping[str, ReportedTrial] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Comparable records and their table; `suffix` and `title` keep several groups in one report apart.

    `trials` leaves out what only measured candidates on held-out images; `all_trials`, for costs, does not.
    """

    records: Sequence[Record]
    trials: pd.DataFrame
    all_trials: pd.DataFrame
    suffix: str
    title: str
    prices: Prices

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.trials)

    @cached_property
    def fits(self) -> list[Fit | Refusal]:
        return fits(self.trials)

    @cached_property
    def efficiency(self) -> pd.DataFrame:
        return label_efficiency(self.trials)

    @cached_property
    def money(self) -> Money:
        return money(self.all_trials, self.prices, resources_used(self.records))

    @cached_property
    def fronts(self) -> pd.DataFrame:
        """`pareto.fronts` of all candidates, of which those behind are left out but for each model's best by stage:
        thousands of worse settings would be a cloud."""
        found = fronts(candidates(self.trials, self.money))
        best = found.groupby(["cost", "label_fraction", "stage", "architecture"])["mean"].transform("max")
        return found[found["on_front"] | (found["mean"] == best)]


@dataclass(frozen=True)
class Results:
    """What storage holds of a study; `problems` are files that were left out, `prices` what device-hours cost,
    `running` what trials that run now tell of themselves."""

    study: StudyInfo
    records: Sequence[Record]
    failures: Sequence[Failure] = ()
    problems: Sequence[Problem] = ()
    prices: Prices = field(default_factory=read_prices)
    running: Mapping[str, Progress] = field(default_factory=dict)

    @cached_property
    def done(self) -> frozenset[str]:
        return frozenset(record.id for record in self.records)

    @cached_property
    def finished(self) -> int:
        """Number of planned trials that have a record, or of all records where nothing is planned."""
        return len(self.done & self.study.planned.keys()) if self.study.planned else len(self.done)

    @cached_property
    def failed(self) -> list[Failure]:
        """Failures of trials that have not succeeded since."""
        return [failure for failure in self.failures if failure.id not in self.done]

    @cached_property
    def missing(self) -> dict[str, ReportedTrial]:
        """Planned trials that have neither a record nor a failure."""
        known = self.done | {failure.id for failure in self.failed}
        return {id: trial for id, trial in self.study.planned.items() if id not in known}

    @cached_property
    def unfinished(self) -> bool:
        """Whether a trial is missing that does not wait for a failed one: a launch would go on with it."""
        failed = {failure.id for failure in self.failed}

        def waits(id: str | None) -> bool:
            while id is not None and id in self.study.planned and id not in failed:
                id = self.study.planned[id].parent
            return id in failed

        return any(not waits(id) for id in self.missing)

    @cached_property
    def groups(self) -> list[Group]:
        """Records that may stand in one table, the largest group first; one empty group when there are none."""
        groups: list[list[Record]] = group_by_data(self.records) or [[]]
        if len(groups) == 1:
            return [_group(groups[0], "", "", self.prices)]
        return [
            _group(records, f"-{number}", f" {number} ({_data_title(records[0])})", self.prices)
            for number, records in enumerate(groups, 1)
        ]

    @cached_property
    def suggestions(self) -> list[Suggestion]:
        """What to run next, the best first, judged by the largest group of records."""
        return next_experiments(self.groups[0].trials, [one for one in self.study.planned.values() if not one.dev])

    @cached_property
    def table(self) -> pd.DataFrame:
        """`tables.trials` of all records, each with its cost, `money` in `currency` (NaN: unknown); only rows of the
        same `group` (1, 2, ...) may be compared."""
        return pd.concat([_with_money(one).assign(group=i + 1) for i, one in enumerate(self.groups)], ignore_index=True)


def _group(records: Sequence[Record], suffix: str, title: str, prices: Prices) -> Group:
    every = trials(records)
    measuring = {record.id for record in records if record.spec.dev is not None}
    results = every[~every["id"].isin(measuring)].reset_index(drop=True) if measuring else every
    return Group(records, results, every, suffix, title, prices)


def _with_money(group: Group) -> pd.DataFrame:
    spent = group.money.trials.set_index("id")["money"]
    currency = pd.array([group.prices.currency] * len(group.trials), dtype="string")
    return group.trials.assign(money=spent.reindex(group.trials["id"]).array, currency=currency)


def _data_title(record: Record) -> str:
    data = record.spec.data
    return f"{data.name}, {data.image_size} px, protocol {record.spec.protocol}, data {record.data.fingerprint[:8]}"
