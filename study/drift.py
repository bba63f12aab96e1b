"""What makes an unfinished trial differ from a finished one that is almost the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from reports.settings import by_path
from study.plan import Plan
from trainables.spec import STAGES


def drift(plan: Plan, finished: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """For each unfinished trial that differs from a finished one in at most two settings: what differs.

    `finished` are the specifications of the storage's records; those of the plan's own trials do not count. Parents'
    ids are not compared: they follow from their own settings.
    """
    planned = {id: _fields(trial.spec.plain()) for id, trial in plan.trials.items()}
    own = {frozenset(fields.items()) for fields in planned.values()}
    others = {frozenset(fields.items()): fields for fields in map(_fields, finished)}
    explained: dict[str, list[str]] = {}
    for stage in STAGES:
        known = [fields for key, fields in others.items() if fields["stage"] == stage and key not in own]
        missing = [id for id, trial in plan.missing().items() if known and trial.spec.stage == stage]
        for id, other in zip(missing, _nearest([planned[id] for id in missing], known), strict=True):
            mine = planned[id]
            changes = [
                f"{key} {other.get(key)} -> {mine.get(key)}" for key in mine | other if other.get(key) != mine.get(key)
            ]
            if 1 <= len(changes) <= 2:
                explained[id] = changes
    return {id: explained[id] for id in plan.trials if id in explained}


def _nearest(wanted: list[dict[str, Any]], known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each of `wanted`, the first of `known` that differs from it in the fewest fields."""
    names = sorted({name for fields in (*wanted, *known) for name in fields})
    codes: dict[tuple[str, Any], int] = {}  # a number for each value met: big plans make millions of comparisons

    def encode(fields: dict[str, Any]) -> list[int]:
        return [codes.setdefault((name, fields.get(name)), len(codes)) for name in names]

    table = np.array([encode(fields) for fields in known]).T.copy()
    for fields in wanted:
        differences = (table != np.array(encode(fields))[:, None]).sum(0)
        yield known[int(differences.argmin())]


def _fields(plain: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in by_path(plain).items() if path != "parent"}
