"""What a grid may say: axes that exist, values of their type and range, cells and batches that can be trained."""

from __future__ import annotations

import math
from typing import Any, assert_never

from pydantic import ValidationError

from reports.plain_scalar import shown
from study.adaptive import BEST, Scalar, names_one_twice
from study.config import NAMED_AXES, Grid, Study
from study.hint import hint
from study.problems import explain_errors
from study.trial import TrialSpec
from trainables.architecture import parse_architecture
from trainables.ranges import LEAST_TEMPERATURE, MOST_SEED, MOST_TEMPERATURE
from trainables.spec import EncoderRecipe, LinearSettings, Memory, PretrainSettings

OWN_NEGATIVES = 0.01
"""Largest share of rows that may meet their own image, from the epoch before, among the memory's negatives."""


MOST_CELLS = 200_000
MOST_TRIALS = 500_000


def check_cells(study: Study) -> None:
    """Refuse grids of too many cells before they are made."""
    cells = sum(math.prod(map(len, grid.axes.values())) for grid in study.grid)
    if cells > MOST_CELLS:
        raise ValueError(
            f"the grid has {cells:,} cells, expected at most {MOST_CELLS:,}; take fewer values, or several studies in "
            "one storage, which share their trials"
        )


def check_number(trials: int) -> None:
    """Refuse a plan that grows too large."""
    if trials > MOST_TRIALS:
        raise ValueError(
            f"the study has more than {MOST_TRIALS:,} trials; take fewer values, samples or folds, or several studies "
            "in one storage, which share their trials"
        )


def check_grid(study: Study, grid: Grid) -> None:
    """Refuse axes that do not exist, values of a wrong type or range, and cells that cannot be run."""
    known = [*NAMED_AXES, *(f"{stage}." for stage in study.stages.named())]
    for axis, values in grid.axes.items():
        if not values:
            raise ValueError(f"grid axis `{axis}` has no values")
        odd = [value for value in values if not isinstance(value, bool | int | float | str)]
        if odd:
            raise ValueError(
                f"grid axis `{axis}` has the value {shown(repr(odd[0]))[1:-1]}, expected a number, a name, "
                "or true or false"
            )
        if names_one_twice(values):
            raise ValueError(f"grid axis `{axis}` names a value twice: {shown(str(values))[1:-1]}")
        if axis in NAMED_AXES:
            check_axis(axis, [value for value in values if (axis, value) != ("head_layer", BEST)])
        elif axis.partition(".")[0] not in study.stages.named() or "." not in axis:
            otherwise = f"known: {', '.join(NAMED_AXES)}, or a stage's setting"
            proposed = hint(axis, known, otherwise)
            raise ValueError(f"unknown grid axis `{axis}`; {proposed} (a setting is written stage.path)")
        else:
            _check_setting(study, axis, values)
    for required in ("architecture", "label_fraction"):
        if required not in grid.axes:
            raise ValueError(f"every grid needs the axis `{required}`; found {', '.join(grid.axes)}")
    if grid.stages == []:
        raise ValueError("the grid's `stages` is empty: name the stages to run, or leave it out to run all")
    for stage in grid.stages or []:
        if stage not in study.stages.named():
            raise ValueError(f"the grid asks for stage `{stage}`, which `stages` does not describe")
    deepest = min(int(depth) for depth in grid.values("head_depth"))
    for layer in grid.values("head_layer"):
        if layer != BEST and int(layer) > deepest:
            raise ValueError(
                f"head_layer {layer} of a projection head with {deepest} layers does not exist (0 is the encoder "
                f"output, {deepest} the head's output); write one grid per head_depth if the layers differ"
            )


def _check_setting(study: Study, axis: str, values: list[Scalar]) -> None:
    """Refuse an axis over a stage's setting that does not exist, or values that it cannot have."""
    stage, _, path = axis.partition(".")
    recipe = getattr(study.stages, stage)
    for value in values:
        plain = recipe.model_dump(mode="json", by_alias=True)
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
    raise ValueError(f"{where}: no setting `{path}`; {hint(key, known or ['nothing below it'])}")


def check_axis(axis: str, values: list[Scalar]) -> None:
    """Refuse values that a named axis cannot have."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, NAMED_AXES[axis]):
            expected = " or ".join(kind.__name__ for kind in NAMED_AXES[axis])
            raise ValueError(f"grid axis `{axis}` has the value {value!r}, expected {expected}")
        if axis == "architecture":
            parse_architecture(str(value))
        elif axis == "label_fraction" and not 0 < value <= 1:  # type: ignore[operator]
            raise ValueError(f"label_fraction {value} is outside (0, 1]: 0.01 is one percent, 1 is all labels")
        elif axis == "temperature" and not LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE:  # type: ignore[operator]
            raise ValueError(
                f"temperature {value} is outside {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}; "
                "the paper uses 0.1 and 1"
            )
        elif axis == "head_depth" and not 2 <= int(value) <= 4:
            raise ValueError(f"head_depth {value} is outside 2 to 4, the depths of the paper's projection heads")
        elif axis == "head_layer" and int(value) < 0:
            raise ValueError(f"head_layer {value} must be 0 or more")
        elif axis == "seed" and not 0 <= int(value) <= MOST_SEED:
            raise ValueError(f"seed {value} is outside 0 to {MOST_SEED:,}, the seeds that torch takes")


def micro_batches(spec: TrialSpec) -> int:
    """Number of parts into which a trial cuts its batches."""
    settings = spec.settings
    if isinstance(settings, LinearSettings):
        return 1
    if isinstance(settings, EncoderRecipe):
        return settings.micro_batches
    assert_never(settings)


def check_batch(id: str, spec: TrialSpec, workers: int, train_images: int) -> None:
    """Refuse batches that workers and micro-batches cannot share, and negatives that are the image itself."""
    batch, parts = spec.settings.optimization.global_batch_size, micro_batches(spec)
    if batch % (workers * parts):
        cut = f" in {parts} micro-batches each" if parts > 1 else ""
        raise ValueError(f"{id}: global_batch_size {batch} is not a multiple of its {workers} workers{cut}")
    if batch < 2 and not isinstance(spec.settings, LinearSettings):
        raise ValueError(
            f"{id}: global_batch_size 1 leaves one image to each step, whose batch norm would have nothing to compare "
            "it with; take 2 or more"
        )
    if parts > 1 and batch // parts < 2:
        raise ValueError(
            f"{id}: {parts} micro-batches leave one image of a global_batch_size of {batch} to each, whose batch norm "
            "would have nothing to compare it with; lower micro_batches"
        )
    if isinstance(spec.settings, PretrainSettings):
        _check_negatives(id, spec.settings.memory, batch, train_images)


def _check_negatives(id: str, memory: Memory, batch: int, train_images: int) -> None:
    match memory.enqueue:
        case "both":
            remembered = math.ceil(memory.size / 2)
        case "first":
            remembered = memory.size
        case _:
            assert_never(memory.enqueue)
    if batch + remembered > train_images:
        also = f" and the {remembered} images in memory" if remembered else ""
        raise ValueError(
            f"{id}: global_batch_size {batch}{also} exceed the {train_images} training images: an image would be its "
            "own negative; lower stages.pretrain.optimization.global_batch_size"
            + (" or stages.pretrain.memory.size" if remembered else "")
        )
    # Epochs are permutations: of two that follow each other, an image's distance is below m with chance m^2 / 2N^2.
    share = remembered**2 / (2 * train_images**2)
    if share > OWN_NEGATIVES:
        raise ValueError(
            f"{id}: of {train_images} training images a memory of {remembered} would hold {share:.0%} of a batch's own "
            f"images, drawn at the end of the epoch before, as their negatives; lower stages.pretrain.memory.size to "
            f"keep at most {math.floor(train_images * math.sqrt(2 * OWN_NEGATIVES))} images"
        )
