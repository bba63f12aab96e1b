"""Grid -> trials: every cell of every grid becomes a chain of trials, as far as what is left open has been decided."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, assert_never

from study.adaptive import BEST, Range, Scalar
from study.cells import TEACHER, Cell, TrialMaker, cell_key, cells, with_ancestors
from study.check_adaptive import axis_of, stages_left_open
from study.choices import Choice, Decision, Evidence, NoEvidence, Option, choice_id
from study.config import Study
from study.trial import TrialSpec
from trainables.spec import DevSplit, Stage


def expand(
    study: Study,
    evidence: Evidence | None = None,
    labelled: Callable[[float], int] | None = None,
) -> Expansion:
    """All trials of a study that are known by now, duplicates merged.

    `labelled` gives the number of labelled images of a label fraction (default: what the study expects).

    Raises:
        ValueError: a rule or an axis that sets what does not exist, or a value out of range for its stage.
    """
    labelled, evidence = labelled or study.data.labelled, evidence or NoEvidence()
    expansion = Expansion(study, evidence, labelled)
    if study.explore is None:
        for stages, cell in grid_cells(study):
            expansion.add_cell(stages, cell)
    else:
        cells = list(grid_cells(study))
        for number in evidence.picked(study, labelled):
            expansion.add_explored(*cells[number])
    return expansion


def grid_cells(study: Study) -> Iterator[tuple[tuple[Stage, ...], Cell]]:
    """Every cell of every grid, with the stages that it runs."""
    for grid in study.grid:
        stages = tuple(stage for stage in study.stages.named() if grid.stages is None or stage in grid.stages)
        for cell in cells(grid):
            yield stages, cell


JUDGED: tuple[Stage, ...] = ("distill", "finetune", "linear", "supervised")
"""The stage by whose held-out accuracy an exploration judges a cell: the first of these that it runs."""


def judged_by(stages: tuple[Stage, ...]) -> Stage:
    """The stage of a cell by whose held-out accuracy an exploration judges it."""
    assert {"pretrain", *JUDGED}.issuperset(stages), f"one of {stages} has no place in JUDGED"
    return next(stage for stage in JUDGED if stage in stages)


@dataclass(frozen=True)
class Explored:
    """A cell of an exploration: all `trials` that it needs, and those that measure its `last` trial.

    `lineage` are the last trial and its ancestors.
    """

    stages: tuple[Stage, ...]
    cell: Cell
    trials: set[str]
    measured: Option
    last: str
    lineage: set[str]


class Expansion:
    """The trials of the cells added so far, and what is still open in them.

    `choices` are all choices met, decided or not; `decisions` tells for a trial the choices that it rests on; `waiting`
    holds what can be expanded only when a choice is decided. A cell needs one training of each of its stages and of
    their parents; `naive` counts them as if every cell ran its own.
    """

    def __init__(self, study: Study, evidence: Evidence, labelled: Callable[[float], int]) -> None:
        self.study = study
        self.evidence = evidence
        self.labelled = labelled
        self.maker = TrialMaker(study)
        self.cells = 0
        self.naive: Counter[Stage] = Counter()
        self.open_stages = stages_left_open(study)
        self.choices: dict[str, Choice] = {}
        self.decisions: dict[str, tuple[Decision, ...]] = {}
        self.waiting: dict[str, dict[tuple[Any, ...], tuple[Stage, Cell]]] = {}
        self._choices: dict[tuple[Any, ...], Choice] = {}

    @property
    def specs(self) -> dict[str, TrialSpec]:
        """The trials known by now, parents first."""
        return self.maker.specs

    def add_cell(self, stages: tuple[Stage, ...], cell: Cell) -> set[str]:
        """Make what a cell needs, as far as it is known; returns the ids of these trials and their ancestors."""
        self.cells += 1
        needed: set[str] = set()
        for stage in stages:
            id = self.trial(stage, cell)
            if id is not None:
                needed |= self.maker.lineage(id)
        self.naive.update(self.specs[id].stage for id in needed)
        return needed

    def add_explored(self, stages: tuple[Stage, ...], cell: Cell) -> Explored:
        """Make what a cell of an exploration needs, in which nothing is left open."""
        needed = self.add_cell(stages, cell)
        judged = judged_by(stages)
        last, measured = self.maker.make(judged, cell), self.option({}, judged, cell)
        trials = needed | {*measured.trials, *measured.needs}
        self.naive.update(self.specs[id].stage for id in trials - needed)
        return Explored(stages, cell, trials, measured, last, self.maker.lineage(last))

    def trial(self, stage: Stage, cell: Cell) -> str | None:
        """Id of the trial that a cell needs at a stage; None while it waits for a choice."""
        if not self.open_stages:
            return self.maker.make(stage, cell)
        found = self.resolve(stage, cell)
        if isinstance(found, Choice):
            self.waiting.setdefault(found.id, {})[cell_key(stage, cell)] = stage, cell
            return None
        resolved, decisions = found
        id = self.maker.make(stage, resolved)
        if decisions:
            self.decisions.setdefault(id, decisions)
        return id

    def decided(self, choice: Choice) -> None:
        """Go on with what waited for a choice that is decided now; it may wait for the next one."""
        for stage, cell in self.waiting.pop(choice.id, {}).values():
            self.trial(stage, cell)

    def resolve(self, stage: Stage, cell: Cell) -> Choice | tuple[Cell, tuple[Decision, ...]]:
        """The cell with everything decided that matters to a stage, and these decisions; or the choice to wait for."""
        decisions: list[Decision] = []
        steps: tuple[Stage, ...] = with_ancestors(stage)
        if stage == "distill" and self._teacher_is_open(cell):
            found = self._best_teacher(cell)
            decision = self.evidence.decide(found)
            if decision is None:
                return found
            cell, steps = {**cell, **decision.chosen.changes}, ("distill",)
            decisions += [*decision.chosen.rests_on, decision]
        for step in steps:
            choice = self._choice(step, cell)
            if choice is None:
                continue
            decision = self.evidence.decide(choice)
            if decision is None:
                return choice
            cell = {**cell, **decision.chosen.changes}
            decisions.append(decision)
        return cell, tuple(decisions)

    def option(self, changes: Cell, stage: Stage, cell: Cell) -> Option:
        """Changes that led to a cell, with the trials that measure it on held-out labelled images, a fold each."""
        trials = tuple(self.maker.make(stage, cell, dev) for dev in self._dev_splits(stage, cell))
        needs = {id for trial in trials for id in self.maker.lineage(trial)} - set(trials)
        return Option(changes, trials, tuple(sorted(needs)))

    def _dev_splits(self, stage: Stage, cell: Cell) -> list[DevSplit]:
        match stage:
            case "pretrain":
                fraction = 1.0
            case "linear" | "finetune" | "supervised" | "distill":
                fraction = float(cell["label_fraction"])
            case _:
                assert_never(stage)
        dev, labelled = self.study.dev, self.labelled(fraction)
        if labelled < dev.folds:
            raise ValueError(
                f"{labelled} labelled images at label_fraction {fraction:g} are fewer than dev.folds {dev.folds}, so "
                "nothing can be chosen on images held out of them; lower dev.folds or raise the label_fraction"
            )
        return [DevSplit(label_fraction=fraction, folds=dev.folds, fold=fold) for fold in dev.held_out(labelled)]

    def _choice(self, stage: Stage, cell: Cell) -> Choice | None:
        """What a stage leaves open in a cell in which its ancestors leave nothing open."""
        if stage not in self.open_stages or not self._leaves_open(stage, cell):
            return None
        key = cell_key(stage, cell)
        if key not in self._choices:
            recipe = getattr(self.study.stages, stage)
            over = {axis_of(self.study, stage, name): list(values) for name, values in _listed(recipe).items()}
            if stage == "finetune" and cell["head_layer"] == BEST and "head_layer" not in over:
                over["head_layer"] = list(range(int(cell["head_depth"]) + 1))
            made = self._listed_choice if recipe.search is None else self._searched_choice
            self._choices[key] = made(stage, cell, over)
            self.choices[self._choices[key].id] = self._choices[key]
        return self._choices[key]

    def _leaves_open(self, stage: Stage, cell: Cell) -> bool:
        recipe = getattr(self.study.stages, stage)
        best_layer = stage == "finetune" and cell["head_layer"] == BEST
        return best_layer or recipe.select is not None or recipe.search is not None

    def _listed_choice(self, stage: Stage, cell: Cell, over: dict[str, list[Scalar]]) -> Choice:
        changes = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
        options = [self.option(change, stage, {**cell, **change}) for change in changes]
        what = {option.trials[0]: option.changes for option in options}
        return Choice(choice_id(stage, cell, what), stage, cell, options)

    def _searched_choice(self, stage: Stage, cell: Cell, over: dict[str, list[Scalar]]) -> Choice:
        search = getattr(self.study.stages, stage).search
        space = {axis_of(self.study, stage, name): found for name, found in search.settings.items()}
        space |= {axis: Range(choices=values) for axis, values in over.items() if axis not in space}
        own = {axis: found.ends[0] for axis, found in space.items() if axis in cell}  # `best` is no value to train with
        base = tuple(self.maker.specify(stage, {**cell, **own}, dev) for dev in self._dev_splits(stage, cell))
        what = {
            "measured": base[0].trial_id(),
            "space": {axis: found.model_dump(mode="json", by_alias=True) for axis, found in space.items()},
        }
        choice = Choice(choice_id(stage, cell, what), stage, cell, [], search, space, base)
        for changes, needed in self.evidence.sampled(choice):
            self.add_option(choice, changes, needed)
        return choice

    def add_option(self, choice: Choice, changes: Cell, needed: bool = True) -> None:
        """Add what a search has sampled; trials that are not `needed`, of what failed or was pruned, are not made."""
        cell = {**choice.cell, **changes}
        if needed:
            choice.options.append(self.option(changes, choice.stage, cell))
            return
        specs = [self.maker.specify(choice.stage, cell, dev) for dev in self._dev_splits(choice.stage, cell)]
        choice.options.append(Option(changes, tuple(spec.trial_id() for spec in specs)))

    def _teacher_is_open(self, cell: Cell) -> bool:
        recipe = self.study.stages.distill
        assert recipe is not None
        return cell.get("distill.teacher", recipe.teacher) == BEST

    def _best_teacher(self, cell: Cell) -> Choice:
        """The choice among the fine-tuned models of all architectures and head layers of the study, or, where one of
        these leaves something open itself, that choice, which comes first."""
        names = sorted({name for grid in self.study.grid for name in map(str, grid.axes["architecture"])})
        layers = list(dict.fromkeys(layer for grid in self.study.grid for layer in grid.values("head_layer")))
        layers = [layer for layer in layers if layer == BEST or int(layer) <= int(cell["head_depth"])]
        options: list[Option] = []
        first_open: Choice | None = None
        for name, layer in itertools.product(names, layers):
            found = self.resolve("finetune", {**cell, "architecture": name, "head_layer": layer})
            if isinstance(found, Choice):
                first_open = first_open or found
                continue
            resolved, decisions = found
            changes = {change: value for decision in decisions for change, value in decision.chosen.changes.items()}
            changes = {TEACHER: name, "head_layer": resolved["head_layer"], **changes}
            option = replace(self.option(changes, "finetune", resolved), rests_on=decisions)
            if all(option.trials != other.trials for other in options):  # `best` may be a listed layer
                options.append(option)
        if first_open is not None:
            return first_open
        what = {option.trials[0]: option.changes for option in options}
        id = choice_id("finetune", {**cell, "architecture": "teacher"}, what)
        return self.choices.setdefault(id, Choice(id, "finetune", cell, options))


def _listed(recipe: Any) -> dict[str, list[Scalar]]:
    return {} if recipe.select is None else recipe.select.over
