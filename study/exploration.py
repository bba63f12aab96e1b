"""Exploring a study's grid: an exploration as storage knows it goes on, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import optuna

from datasets.typed_files import BadFileError
from study.adaptive import Explore
from study.config import Study
from study.evidence import StoredEvidence
from study.explore import DIRECTIONS, Explorer
from study.grid import Explored
from study.picked import OVER, ending_of, exploration_id, explored_cells
from study.plan import Images, PlannedTrial, Planner


@dataclass(frozen=True)
class Exploration:
    """All cells of the grid with what they need, and who hands them out; `told` are those whose end he knows of."""

    cells: list[Explored]
    explorer: Explorer
    optuna_study: optuna.Study
    settings: Explore
    payer: dict[str, int] = field(default_factory=dict)  # the first cell that needs a training pays for it
    told: set[int] = field(default_factory=set)


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
