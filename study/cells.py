"""Cells of a grid, and the chain of trials that a cell needs; cells that agree share them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, assert_never

from pydantic import ValidationError

from study.adaptive import Scalar
from study.check import check_number, set_path
from study.config import AXES_OF_STAGE, DEFAULT_AXES, Grid, Rule, Study, parent_of
from study.hint import hint
from study.problems import explain_errors
from study.trial import DataIdentity, TrialSpec
from trainables.spec import DevSplit, Settings, Stage, settings_of

Cell = dict[str, Scalar]

NOT_OF_THE_TRIAL = {"when", "select", "search", "student", "teacher", "self_temperature"}
"""Settings of a study's stage that decide which trials there are, and are no settings of a trial."""

TEACHER = "teacher.architecture"
"""A cell's entry for the architecture of a teacher that is another than the cell's own; no axis of a grid."""


def with_ancestors(stage: Stage) -> tuple[Stage, ...]:
    """A stage and those of its ancestors, these first."""
    parent = parent_of(stage)
    return (stage,) if parent is None else (*with_ancestors(parent), stage)


class TrialMaker:
    """Makes the trials of cells in which nothing is left open, and remembers them: cells that agree share trials.

    `specs` holds the trials by id in an order in which parents come first.

    Raises:
        ValueError: a rule or an axis that sets what does not exist, or a value out of range for its stage.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.data = DataIdentity.of(study.data)
        self.specs: dict[str, TrialSpec] = {}
        self.ids: dict[tuple[Any, ...], str] = {}
        self.settings: dict[tuple[Any, ...], Settings] = {}
        _check_rules(study)

    def make(self, stage: Stage, cell: Cell, dev: DevSplit | None = None) -> str:
        """Id of the trial that a cell needs at a stage; makes it, and its parents, when it is new."""
        key = (dev, *cell_key(stage, cell))
        if key not in self.ids:
            spec = self.specify(stage, cell, dev)
            self.ids[key] = spec.trial_id()
            self.specs.setdefault(self.ids[key], spec)
            check_number(len(self.specs))
        return self.ids[key]

    def lineage(self, id: str) -> set[str]:
        """A trial and its ancestors."""
        parent = self.specs[id].parent
        return {id} if parent is None else {id} | self.lineage(parent)

    def specify(self, stage: Stage, cell: Cell, dev: DevSplit | None) -> TrialSpec:
        """The trial of a stage in a cell, its parents made.

        `dev`: what it holds out. Its teacher holds out the same, since a student would otherwise be told the labels on
        which it is measured; a pretraining reads no labels and holds out nothing for its children's sake.
        """
        match stage:
            case "pretrain" | "supervised":
                parent = None
            case "linear" | "finetune":
                parent = self.make("pretrain", cell)
            case "distill":
                parent = self._teacher(cell, dev)
            case _:
                assert_never(stage)
        return self.with_parent(stage, cell, parent, dev)

    def with_parent(self, stage: Stage, cell: Cell, parent: str | None, dev: DevSplit | None) -> TrialSpec:
        """The trial of a stage in a cell with this parent; makes nothing."""
        architecture = str(cell["architecture"])
        fraction: dict[str, Any] = {"label_fraction": float(cell["label_fraction"])}
        match stage:
            case "pretrain":
                dynamic = {"head_depth": cell["head_depth"]}
            case "linear" | "supervised":
                dynamic = fraction
            case "finetune":
                dynamic = {**fraction, "head_layer": cell["head_layer"]}
            case "distill":
                student = cell.get("distill.student", getattr(self.study.stages, stage).student)
                architecture = architecture if student == "same" else str(student)
                dynamic = {**fraction, "temperature": float(cell["temperature"])}
            case _:
                assert_never(stage)
        return TrialSpec(
            stage=stage,
            data=self.data,
            architecture=architecture,
            seed=int(cell["seed"]),
            parent=parent,
            dev=dev,
            settings=self.settle(stage, {**cell, "architecture": architecture}, dynamic),
        )

    def _teacher(self, cell: Cell, dev: DevSplit | None) -> str:
        recipe = self.study.stages.distill
        assert recipe is not None
        match cell.get("distill.teacher", recipe.teacher):
            case "finetuned" | "best":
                return self.make("finetune", {**cell, "architecture": cell.get(TEACHER, cell["architecture"])}, dev)
            case "self-distilled":
                first = {"distill.student": "same", "distill.teacher": "finetuned"}
                temperature = cell.get("distill.self_temperature", recipe.self_temperature)
                return self.make("distill", {**cell, **first, "temperature": temperature}, dev)
            case unknown:
                raise ValueError(f"distill.teacher {unknown!r} is none of finetuned, self-distilled and best")

    def settle(self, stage: Stage, cell: Cell, dynamic: dict[str, Any]) -> Settings:
        """Settings of a stage in a cell: the recipe, then the rules that match, then the cell's own axes."""
        recipe = getattr(self.study.stages, stage)
        matching = tuple(index for index, rule in enumerate(recipe.when) if _matches(rule, cell))
        own = tuple((axis, cell[axis]) for axis in sorted(cell) if axis.startswith(stage + "."))
        key = (stage, matching, own, *sorted(dynamic.items()))
        if key not in self.settings:
            plain = recipe.model_dump(mode="json", exclude=NOT_OF_THE_TRIAL)
            for index in matching:
                for path, value in recipe.when[index].set.items():
                    set_path(plain, path, value, f"stages.{stage}.when")
            for axis, value in own:
                path = axis.partition(".")[2]
                if path not in NOT_OF_THE_TRIAL:
                    set_path(plain, path, value, "grid")
            if dynamic.get("head_layer") == 0:
                plain["kept_head"] = "trained"  # nothing of the head is kept
            if stage == "distill" and plain["images"] == "all" and plain["distillation_weight"] == 1:
                dynamic = {**dynamic, "label_fraction": None}  # Eq. 2 over all images reads no label
            self.settings[key] = _validated(stage, {**plain, **dynamic})
        return self.settings[key]


def cells(grid: Grid) -> Iterator[Cell]:
    """The cells of one grid, the axes that it leaves out filled with their defaults; the last axis varies fastest."""
    for values in itertools.product(*grid.axes.values()):
        yield {**DEFAULT_AXES, **dict(zip(grid.axes, values, strict=True))}


def cell_key(stage: Stage, cell: Cell) -> tuple[Any, ...]:
    """What of a cell determines a stage's trial: cells may have different axes, so their names are part of it."""
    axes = relevant_axes(stage, tuple(cell))
    return stage, axes, *(cell[axis] for axis in axes)


@lru_cache
def relevant_axes(stage: Stage, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Which of a cell's axes change a stage's result, its parents' included."""
    owners = (*with_ancestors(stage), *(["teacher"] if stage == "distill" else []))
    return tuple(a for a in sorted(axes) if a in AXES_OF_STAGE[stage] or ("." in a and a.partition(".")[0] in owners))


def _matches(rule: Rule, cell: Cell) -> bool:
    return all(
        any(
            fnmatchcase(str(cell[axis]), str(wanted)) if isinstance(cell[axis], str) else cell[axis] == wanted
            for wanted in (expected if isinstance(expected, list) else [expected])
        )
        for axis, expected in rule.where.items()
    )


def _check_rules(study: Study) -> None:
    for stage in study.stages.named():
        for rule in getattr(study.stages, stage).when:
            for axis in rule.where:
                if axis not in AXES_OF_STAGE[stage]:
                    proposed = hint(axis, AXES_OF_STAGE[stage])
                    raise ValueError(f"stages.{stage}.when: axis `{axis}` does not change this stage; {proposed}")


def _validated(stage: Stage, plain: dict[str, Any]) -> Settings:
    kind = settings_of(stage)
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        raise ValueError(f"stage {stage}: " + "\n".join(explain_errors(error, kind))) from None
