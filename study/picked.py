"""Which cells of a study's grid an exploration has picked, and what each cell needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datasets.typed_files import BadFileError, shortened
from study.adaptive import Explore
from study.choices import NoEvidence
from study.config import Study
from study.grid import Expansion, Explored, grid_cells
from study.trial import canonical_json

if TYPE_CHECKING:  # it imports Optuna, which plans without a search or an exploration do without: 0.04 s
    from study.search import Searches

OVER = "over"
"""User attribute of the Optuna study of an exploration that has ended: the budget and patience that it ended with."""


def explored_cells(study: Study, labelled: Callable[[float], int]) -> tuple[list[Explored], Expansion]:
    """What every cell of the grid needs, the trials that measure it included."""
    expansion = Expansion(study, NoEvidence(), labelled)
    return [expansion.add_explored(stages, cell) for stages, cell in grid_cells(study)], expansion


def exploration_id(cells: list[Explored], explore: Explore) -> str:
    """Name of an exploration's Optuna study: other cells or objectives are another one, another budget is not."""
    what = {"cells": [cell.last for cell in cells], "objectives": list(explore.objectives)}
    return f"explore-{hashlib.sha256(canonical_json(what).encode()).hexdigest()[:8]}"


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
        raise BadFileError(searches.uri, reason)
    picked = dict.fromkeys(numbers[key] for key in keys)
    return list(picked), found.user_attrs.get(OVER) == ending_of(study.explore)


def ending_of(explore: Explore) -> list[float]:
    """What an exploration has to be asked again after: another budget or patience."""
    return [explore.budget_device_hours, explore.patience]
