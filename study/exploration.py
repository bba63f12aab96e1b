"""Exploring a study's grid: which of its cells have been picked, what they need, and what became of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import optuna

from datasets.typed_files import BadFileError, shortened
from study.adaptive import Explore
from study.choices import NoEvidence
from study.config import Study
from study.evidence import StoredEvidence
from study.explore import DIRECTIONS, Explorer
from study.grid import Expansion, Explored, grid_cells
from study.plan import Images, PlannedTrial, Planner
from study.search import JOURNAL, Searches
from study.trial import canonical_json

OVER = "over"
"""User attribute of the Optuna study of an exploration that has ended: the budget and patience that it ended with."""


@dataclass(frozen=True)
class Exploration:
    """All cells of the grid with what they need, and who hands them out; `told` are those whose end he knows of."""

    cells: list[Explored]
    explorer: Explorer
    optuna_study: optuna.Study
    settings: Explore
    payer: dict[str, int] = field(default_factory=dict)  # the first cell that needs a training pays for it
    told: set[int] = field(default_factory=set)


def explored_cells(study: Study, labelled: Callable[[float], int]) -> tuple[list[Explored], Expansion]:
    """What every cell of the grid needs, the trials that measure it included."""
    expansion = Expansion(study, NoEvidence(), labelled)
    return [expansion.add_explored(stages, cell) for stages, cell in grid_cells(study)], expansion


def exploration_id(cells: list[Explored], explore: Explore) -> str:
    """Name of an exploration's Optuna study: other cells or objectives are another one, another budget is not."""
    what = {"cells": [cell.last for cell in cells], "objectives": list(explore.objectives)}
    return f"explore-{hashlib.sha256(canonical_json(what).encode()).hexdigest()[:8]}"


def open_exploration(
    study: Study, images: Images, evidence: StoredEvidence, seconds: Callable[[PlannedTrial], float], *, dry: bool
) -> Exploration:
    """The exploration of a study as storage knows it; results that are there without it are told for nothing.

    `seconds` predicts device-seconds. `dry` writes nothing: to see whether a launch could explore.

    Raises:
        ValueError: the time of a trial is unknown, or the budget does not pay for a single cell.
    """
    explore = study.explore
    assert explore is not None
    cells, expansion = explored_cells(study, images.labelled)
    planner = Planner(study, images)
    for id, spec in expansion.specs.items():
        planner.add(id, spec)
    hours = {id: seconds(trial) / 3600 for id, trial in planner.trials.items()}
    unknown = sum(math.isnan(value) for value in hours.values())
    if unknown:
        raise ValueError(
            f"explore counts device-hours, and the time of {unknown:,} of {len(hours):,} trials is unknown here; "
            "measure a few steps first: python -m study plan STUDY.yaml --calibrate"
        )
    name = exploration_id(cells, explore)
    opened = evidence.searches.find(name)
    if opened is None:
        opened = optuna.create_study(directions=DIRECTIONS) if dry else evidence.searches.create(name, DIRECTIONS)
    explorer = Explorer(
        [cell.cell for cell in cells],
        [{id: hours[id] for id in cell.trials} for cell in cells],
        [_cost(cell, explore.objectives[1], planner, hours) for cell in cells],
        budget=explore.budget_device_hours,
        patience=explore.patience,
        seed=explore.seed,
        optuna_study=opened,
        paid=evidence.done,
        retry_failed=evidence.retry_failed,
    )
    return Exploration(cells, explorer, opened, explore)


def stored_exploration(
    study: Study, labelled: Callable[[float], int], searches: Searches
) -> tuple[list[int], bool] | None:
    """The cells that an exploration has picked or found finished, in order, and whether it is over; None before its
    first."""
    assert study.explore is not None
    cells, _ = explored_cells(study, labelled)
    found = searches.find(exploration_id(cells, study.explore))
    if found is None:
        return None
    axes = tuple(cells[0].cell)
    numbers: dict[tuple[Any, ...], int]
    numbers = {tuple(cell.cell[axis] for axis in axes): number for number, cell in enumerate(cells)}
    keys = [tuple(trial.params.get(axis) for axis in axes) for trial in found.get_trials(deepcopy=False)]
    if odd := [key for key in keys if key not in numbers]:
        reason = f"has the cell {shortened(repr(odd[0]))} of {found.study_name}, which is none of the grid"
        raise BadFileError(searches.storage.uri(*JOURNAL), reason)
    picked = dict.fromkeys(numbers[key] for key in keys)
    return list(picked), found.user_attrs.get(OVER) == ending_of(study.explore)


def _cost(cell: Explored, objective: str, planner: Planner, hours: dict[str, float]) -> float:
    """What a cell costs by itself: its last trial with all of that one's ancestors."""
    if objective == "parameters":
        return float(planner.trials[cell.last].parameters)
    if objective == "train_flops":
        return sum(planner.trials[id].train_flops for id in cell.lineage)
    return sum(hours[id] for id in cell.lineage)


def advance(exploration: Exploration, evidence: StoredEvidence, over: Collection[str]) -> list[int]:
    """Tell what became of the cells whose trials have all ended (those in `over` without a record), and pick more."""
    explorer, cells = exploration.explorer, exploration.cells
    running = set(explorer.running)
    for number, cell in enumerate(cells):
        if number in exploration.told:
            continue
        if cell.trials <= evidence.done:
            score = evidence.score(cell.measured)
            if score is None:
                problem = next(evidence.problems[id] for id in cell.trials if id in evidence.problems)
                raise BadFileError(problem.path, problem.reason)
            explorer.tell(number, score, _device_hours(exploration, evidence, number))
            exploration.told.add(number)
        elif number in running and all(id in evidence.done or id in over for id in cell.trials):
            explorer.fail(number, cell.trials & evidence.done)
            exploration.told.add(number)
    picked: list[int] = []
    while len(explorer.handed_out & set(explorer.running)) < exploration.settings.parallel:
        found = explorer.ask()
        if found is None:
            break
        picked.append(found)
        for id in cells[found].trials:
            exploration.payer.setdefault(id, found)
    if not explorer.running:
        exploration.optuna_study.set_user_attr(OVER, ending_of(exploration.settings))
    evidence.searches.put_back()
    return picked


def _device_hours(exploration: Exploration, evidence: StoredEvidence, number: int) -> float | None:
    """What a running cell took: its trainings that ended since it was picked, but for those that were another's to pay;
    None where it is not running."""
    started = exploration.explorer.ledger.started(number)
    if started is None:
        return None
    ended = {id: evidence.ended_at(id) for id in exploration.cells[number].trials}
    since, payer = started.astimezone(), exploration.payer
    mine = [id for id, at in ended.items() if at >= since and payer.get(id, number) == number]
    return sum(evidence.device_seconds(id) for id in mine) / 3600


def ending_of(explore: Explore) -> list[float]:
    """What an exploration has to be asked again after: another budget or patience."""
    return [explore.budget_device_hours, explore.patience]
