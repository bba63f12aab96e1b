"""One study, typed and frozen: what its YAML file may say, and what is refused."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from trainables.architecture import parse_architecture
from trainables.spec import (
    DistillRecipe,
    FinetuneRecipe,
    LinearRecipe,
    PretrainRecipe,
    Spec,
    Stage,
    SupervisedRecipe,
)

Scalar = bool | int | float | str

NAMED_AXES: dict[str, tuple[type, ...]] = {
    "architecture": (str,),
    "label_fraction": (float, int),
    "head_depth": (int,),
    "head_layer": (int,),
    "temperature": (float, int),
    "seed": (int,),
}

AXES_OF_STAGE: dict[Stage, tuple[str, ...]] = {
    "pretrain": ("architecture", "head_depth", "seed"),
    "linear": ("architecture", "head_depth", "label_fraction", "seed"),
    "finetune": ("architecture", "head_depth", "head_layer", "label_fraction", "seed"),
    "supervised": ("architecture", "label_fraction", "seed"),
    "distill": ("architecture", "head_depth", "head_layer", "label_fraction", "temperature", "seed"),
}
"""The axes that change a stage's result, its parents' included: two cells that agree on them share the trial."""


class Data(Spec):
    """The images of a study.

    `source` is a built-in set (`digits`, `cifar10`), a folder of images, of Parquet files or of shards; it says where
    the images are and is no part of a trial's identity. `train_images` and `classes` are what the source is expected to
    hold: a plan counts with them before anything is read, and a launch refuses a source that differs.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    source: str
    image_size: int = Field(ge=4)
    train_images: int = Field(ge=1)
    classes: int = Field(ge=2)
    label_seed: int = Field(default=0, ge=0)
    train_limit: int | None = Field(default=None, ge=1)
    test_limit: int | None = Field(default=None, ge=1)


class Rule(Spec):
    """Settings that differ for some cells: where every axis in `where` matches, the dotted paths in `set` apply.

    Numbers match by equality, names by shell pattern (`*sk`), a list if any of its entries matches. `architecture` is
    the one that the stage trains: the student in `distill`.
    """

    where: dict[str, Scalar | list[Scalar]]
    set: dict[str, Scalar]


class PretrainStage(PretrainRecipe):
    when: list[Rule] = Field(default=[])


class FinetuneStage(FinetuneRecipe):
    when: list[Rule] = Field(default=[])


class LinearStage(LinearRecipe):
    when: list[Rule] = Field(default=[])


class SupervisedStage(SupervisedRecipe):
    when: list[Rule] = Field(default=[])


class DistillStage(DistillRecipe):
    """What is distilled into what.

    `student` is an architecture, or `same` for self-distillation. `teacher` is the cell's fine-tuned model, or that
    model after a self-distillation at `self_temperature` (Table 3 and Figure 6 teach small students so).
    """

    student: str = "same"
    teacher: Literal["finetuned", "self-distilled"] = "finetuned"
    self_temperature: float = Field(default=0.1, gt=0)
    when: list[Rule] = Field(default=[])

    @field_validator("student")
    @classmethod
    def _student_exists(cls, student: str) -> str:
        if student != "same":
            parse_architecture(student)
        return student


class Stages(Spec):
    """The stages that a study runs; one that is not named is not run."""

    pretrain: PretrainStage | None = None
    linear: LinearStage | None = None
    finetune: FinetuneStage | None = None
    supervised: SupervisedStage | None = None
    distill: DistillStage | None = None

    @model_validator(mode="after")
    def _parents_present(self) -> Stages:
        for child, parent in (("linear", "pretrain"), ("finetune", "pretrain"), ("distill", "finetune")):
            if getattr(self, child) is not None and getattr(self, parent) is None:
                raise ValueError(f"stage {child!r} starts from the result of {parent!r}: add {parent!r} to `stages`")
        if not self.named():
            raise ValueError("no stage: name at least one of pretrain, linear, finetune, supervised, distill")
        return self

    def named(self) -> tuple[Stage, ...]:
        """The stages present, parents before children."""
        order: tuple[Stage, ...] = ("pretrain", "linear", "finetune", "supervised", "distill")
        return tuple(stage for stage in order if getattr(self, stage) is not None)


class Execution(Spec):
    """How trials are executed; nothing here changes a result.

    `workers` is a number, or numbers by architecture pattern with `default`; the stage `linear` always has one.
    `per_worker` are Ray resources of one worker. `checkpoint_seconds` is the interval of resumable checkpoints.
    `max_workers` caps the workers in flight on a cluster that grows on demand; without it, the cap is what the
    cluster has at launch.
    """

    workers: int | dict[str, int] = 1
    per_worker: dict[str, float] = Field(default={"CPU": 1.0})
    checkpoint_seconds: float = Field(default=120.0, ge=0)
    max_workers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _workers_positive(self) -> Execution:
        counts = self.workers.values() if isinstance(self.workers, dict) else [self.workers]
        if any(count < 1 for count in counts):
            raise ValueError(f"`workers` must be 1 or more, got {self.workers}")
        if isinstance(self.workers, dict) and "default" not in self.workers:
            raise ValueError("`workers` by architecture needs an entry `default`")
        if not self.per_worker or any(amount <= 0 for amount in self.per_worker.values()):
            raise ValueError(f"`per_worker` must name positive amounts such as {{CPU: 1}}, got {self.per_worker}")
        return self


class Grid(Spec):
    """The cartesian product of `axes`; `stages` restricts which stages its cells run (default: all of the study's)."""

    axes: dict[str, list[Scalar]]
    stages: list[Stage] | None = None


class Study(Spec):
    """A question being asked: data, grids (their cells are united), stages, execution."""

    name: str = Field(min_length=1, pattern=r"^[^/\\\x00-\x1f]+$")
    question: str = ""
    data: Data
    grid: list[Grid] = Field(min_length=1)
    stages: Stages
    execution: Execution = Execution()


def parse_study(raw: dict[str, Any], where: str = "study") -> Study:
    """Validate a plain mapping into a `Study`; see `load_study` for the errors."""
    raw = dict(raw)
    if "grid" in raw:
        entries = raw["grid"] if isinstance(raw["grid"], list) else [raw["grid"]]
        raw["grid"] = [_plain_grid(entry) for entry in entries]
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: " + "\n".join(explain_errors(error, Study))) from None
    for grid in study.grid:
        _check_grid(study, grid)
    return study


def _plain_grid(entry: Any) -> Any:
    """Split a grid entry as written (axes beside `stages`) into the fields of `Grid`; one value is a list of one."""
    if not isinstance(entry, dict):
        return entry
    axes = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "stages"}
    return {"axes": axes, "stages": entry.get("stages")}


def explain_errors(error: ValidationError, model: type[Spec]) -> list[str]:
    """One line per error: where, what was found, what was expected, and the nearest known key or choice."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        found = item.get("input")
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            known = _fields_at(model, item["loc"][:-1])
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)
            lines.append(f"unknown key `{path}`; {hint}")
        elif item["type"] == "missing":
            lines.append(f"`{path}` is required and missing")
        elif item["type"] == "value_error":
            lines.append(f"`{path}`: {item['ctx']['error']}" if path else str(item["ctx"]["error"]))
        elif item["type"] == "literal_error":
            choices = re.findall(r"'([^']+)'", item["ctx"]["expected"])
            near = difflib.get_close_matches(str(found), choices, n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            lines.append(f"`{path}` is {found!r}, expected one of {', '.join(choices)}{hint}")
        else:
            lines.append(f"`{path}` is {found!r}: {item['msg'].lower()}")
    return lines


def _fields_at(model: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that stands at `location` inside `model`."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next(c for c in candidates if isinstance(c, type) and issubclass(c, Spec))
    return list(current.model_fields)


def _check_grid(study: Study, grid: Grid) -> None:
    """Refuse axes that do not exist, values of a wrong type or range, and cells that cannot be run."""
    known = [*NAMED_AXES, *(f"{stage}." for stage in study.stages.named())]
    for axis, values in grid.axes.items():
        if not values:
            raise ValueError(f"grid axis `{axis}` has no values")
        if len(set(map(repr, values))) != len(values):
            raise ValueError(f"grid axis `{axis}` names a value twice: {values}")
        if axis in NAMED_AXES:
            _check_axis(axis, values)
        elif axis.partition(".")[0] not in study.stages.named() or "." not in axis:
            near = difflib.get_close_matches(axis, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(NAMED_AXES)}, or a stage's setting"
            raise ValueError(f"unknown grid axis `{axis}`; {hint} (a setting is written stage.path)")
        else:
            _check_setting(study, axis, values)
    for required in ("architecture", "label_fraction"):
        if required not in grid.axes:
            raise ValueError(f"every grid needs the axis `{required}`; found {', '.join(grid.axes)}")
    for stage in grid.stages or []:
        if stage not in study.stages.named():
            raise ValueError(f"the grid asks for stage `{stage}`, which `stages` does not describe")
    deepest = min(int(depth) for depth in grid.axes.get("head_depth", [3]))
    for layer in grid.axes.get("head_layer", [1]):
        if int(layer) > deepest:
            raise ValueError(
                f"head_layer {layer} of a projection head with {deepest} layers does not exist (0 is the encoder "
                f"output, {deepest} the head's output); write one grid per head_depth if the layers differ"
            )


def _check_setting(study: Study, axis: str, values: list[Scalar]) -> None:
    """Refuse an axis over a stage's setting that does not exist, or values that it cannot have."""
    stage, _, path = axis.partition(".")
    recipe = getattr(study.stages, stage)
    for value in values:
        plain = recipe.model_dump(mode="json")
        set_path(plain, path, value, f"grid axis `{axis}`")
        try:
            type(recipe).model_validate(plain)
        except ValidationError as error:
            raise ValueError(f"grid axis `{axis}`: " + "; ".join(explain_errors(error, type(recipe)))) from None


def set_path(plain: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set a dotted path of a mapping that has it already.

    Raises:
        ValueError: there is no such path; the nearest key is named.
    """
    node: Any = plain
    *parents, last = path.split(".")
    for key in parents:
        node = _below(node, key, path, where)
    _below(node, last, path, where)
    node[last] = value


def _below(node: Any, key: str, path: str, where: str) -> Any:
    if isinstance(node, dict) and key in node:
        return node[key]
    known = list(node) if isinstance(node, dict) else []
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known) or 'nothing below it'}"
    raise ValueError(f"{where}: no setting `{path}`; {hint}")


def _check_axis(axis: str, values: list[Scalar]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, NAMED_AXES[axis]):
            expected = " or ".join(kind.__name__ for kind in NAMED_AXES[axis])
            raise ValueError(f"grid axis `{axis}` has the value {value!r}, expected {expected}")
        if axis == "architecture":
            parse_architecture(str(value))
        elif axis == "label_fraction" and not 0 < float(value) <= 1:
            raise ValueError(f"label_fraction {value} is outside (0, 1]: 0.01 is one percent, 1 is all labels")
        elif axis == "temperature" and not float(value) > 0:
            raise ValueError(f"temperature {value} must be above 0; the paper uses 0.1 and 1")
        elif axis == "head_depth" and not 2 <= int(value) <= 4:
            raise ValueError(f"head_depth {value} is outside 2 to 4, the depths of the paper's projection heads")
        elif axis in ("head_layer", "seed") and int(value) < 0:
            raise ValueError(f"{axis} {value} must be 0 or more")
