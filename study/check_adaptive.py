"""What may be left open: settings that exist, ranges whose every value is valid, nothing both listed and searched."""

from __future__ import annotations

from typing import assert_never

from pydantic import ValidationError

from reports.settings import by_path
from study.adaptive import BEST, Scalar
from study.check import check_axis, set_path
from study.config import Study
from study.hint import hint
from study.problems import explain_errors
from trainables.spec import Stage


def own_axes(stage: Stage) -> tuple[str, ...]:
    """Named axes that are a stage's own settings, so that it may leave them open."""
    match stage:
        case "pretrain":
            return ("head_depth",)
        case "finetune":
            return ("head_layer",)
        case "distill":
            return ("temperature",)
        case "linear" | "supervised":
            return ()
        case _:
            assert_never(stage)


def stages_left_open(study: Study) -> frozenset[Stage]:
    """Stages at which something is to be chosen, in all cells or in some."""
    found: set[Stage] = set()
    for stage in study.stages.named():
        recipe = getattr(study.stages, stage)
        if recipe.select is not None or recipe.search is not None:
            found.add(stage)
    if any(BEST in grid.axes.get("head_layer", []) for grid in study.grid):
        found.add("finetune")
    if study.stages.distill is not None:
        listed = [teacher for grid in study.grid for teacher in grid.axes.get("distill.teacher", [])]
        if BEST in (study.stages.distill.teacher, *listed):
            found.add("distill")
    return frozenset(found)


def axis_of(study: Study, stage: Stage, name: str) -> str:
    """The axis of a cell that a name in a stage's `select` or `search` stands for.

    `head_layer` is an axis as it is; a setting may be written in full (`optimization.learning_rate`) or by its last
    part where that is unambiguous (`learning_rate`), and becomes an axis such as `finetune.optimization.learning_rate`.

    Raises:
        ValueError: there is no such setting, or there are several; the nearest known ones are named.
    """
    if name in own_axes(stage):
        return name
    known = setting_paths(study, stage)
    name = name.removeprefix(f"{stage}.")
    found = [path for path in known if path == name or path.endswith(f".{name}")]
    if name in found or len(found) == 1:
        return f"{stage}.{name if name in found else found[0]}"
    if found:
        raise ValueError(f"stages.{stage}: `{name}` may be {' or '.join(found)}; write it in full")
    names = [*known, *(path.rpartition(".")[2] for path in known), *own_axes(stage)]
    proposed = hint(name, names, f"known: {', '.join(known)}")
    raise ValueError(f"stages.{stage}: no setting `{name}` to choose; {proposed}")


def setting_paths(study: Study, stage: Stage) -> list[str]:
    """Dotted paths of a stage's settings."""
    plain = getattr(study.stages, stage).model_dump(mode="json", exclude={"when", "select", "search"})
    return list(by_path(plain))


def check_adaptive(study: Study) -> None:
    """Refuse what is left open and cannot be chosen.

    Raises:
        ValueError: a setting that does not exist or a value that it cannot have, an axis that is listed in the grid and
            searched or selected too, a pruner for trainings of several workers, an exploration of cells that no
            held-out accuracy tells apart.
    """
    for stage in study.stages.named():
        recipe = getattr(study.stages, stage)
        named = {} if recipe.select is None else recipe.select.over
        ranges = {} if recipe.search is None else recipe.search.settings
        names: dict[str, str] = {}
        for name, values in {**named, **{name: found.ends for name, found in ranges.items()}}.items():
            axis = axis_of(study, stage, name)
            if axis in names:
                raise ValueError(f"stages.{stage}: `{names[axis]}` and `{name}` are the same setting; leave out one")
            names[axis] = name
            _check_not_in_grid(study, stage, name, axis)
            _check_values(study, stage, name, axis, values)
        if recipe.search is not None and recipe.search.pruner != "none":
            _check_workers(study, stage)
    if study.explore is not None:
        _check_explore(study)


def _check_explore(study: Study) -> None:
    if still_open := stages_left_open(study):
        raise ValueError(
            f"explore picks cells of a grid in which nothing is left open, and stages.{min(still_open)} leaves "
            "settings open; list their values as axes of the grid, or leave out `explore`"
        )
    for grid in study.grid:
        if set(study.stages.named() if grid.stages is None else grid.stages) == {"pretrain"}:
            raise ValueError(
                "explore judges cells by a stage that reads labels; every grid needs one beside `pretrain`"
            )


def _check_not_in_grid(study: Study, stage: Stage, name: str, axis: str) -> None:
    for grid in study.grid:
        if any(value != BEST for value in grid.axes.get(axis, [])):
            raise ValueError(
                f"`{axis}` is an axis of the grid and stages.{stage} chooses `{name}` too; leave it out of one of them"
            )


def _check_workers(study: Study, stage: Stage) -> None:
    """A training of several workers cannot be judged on its way: only Ray Train hears of it, and at its end."""
    names = {str(name) for grid in study.grid for name in grid.axes["architecture"]}
    if stage == "distill" and study.stages.distill is not None:
        students = {str(name) for grid in study.grid for name in grid.axes.get("distill.student", [])}
        students = students or {study.stages.distill.student}
        names = (students - {"same"}) | (names if "same" in students else set())
    for name in sorted(names):
        workers = study.execution.workers_of(stage, name)
        if workers > 1:
            raise ValueError(
                f"stages.{stage}: the search's pruner judges trainings of one worker only, and {name} has {workers}; "
                "leave the pruner out, or lower execution.workers"
            )


def _check_values(study: Study, stage: Stage, name: str, axis: str, values: list[Scalar]) -> None:
    if axis in own_axes(stage):
        check_axis(axis, values)
        deepest = min(int(depth) for grid in study.grid for depth in grid.values("head_depth"))
        if axis == "head_layer" and any(int(value) > deepest for value in values):
            raise ValueError(f"stages.{stage}: head_layer {max(map(int, values))} of a head with {deepest} layers")
        return
    if axis == "distill.teacher" and BEST in values:
        raise ValueError(
            "stages.distill: `best` is no teacher among others, it is a choice of its own: `teacher: best`"
        )
    recipe = getattr(study.stages, stage)
    for value in values:
        plain = recipe.model_dump(mode="json", by_alias=True, exclude={"when", "select", "search"})
        set_path(plain, axis.partition(".")[2], value, f"stages.{stage}")
        try:
            type(recipe).model_validate(plain)
        except ValidationError as error:
            problems = "; ".join(explain_errors(error, type(recipe)))
            raise ValueError(f"stages.{stage}: `{name}` cannot be {value!r}: {problems}") from None
