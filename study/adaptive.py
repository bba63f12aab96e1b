"""What a study leaves open, to be decided by results on held-out labelled images, never by the test split."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from trainables.ranges import MOST_IMAGES, AtOnce, Folds, Hours, Seed
from trainables.spec import Spec

Scalar = bool | int | float | str

BEST = "best"
"""The value of an axis that asks for its best value."""

DEFAULT_TRIALS = 20  # of a search that names no budget

MOST_SETTINGS = 10  # chosen together: their ends are tried in all combinations
MOST_OPTIONS = 1_000

RUNGS = 4
"""A training that may be pruned is judged at so many evenly spaced points, the last one being its end."""


def names_one_twice(values: Sequence[Scalar]) -> bool:
    """Whether two values are equal: 1 and 1.0 are, 1 and true are not."""
    return len({(isinstance(value, bool), value) for value in values}) < len(values)


class Dev(Spec):
    """How labelled images are held out to choose by.

    A label fraction's labelled images are cut into `folds` equal parts. With at most `few_labels` of them every part is
    held out in turn (cross-validation), in a training of its own; with more, one part is.
    """

    folds: Folds = 5
    few_labels: int = Field(default=5000, ge=0, le=MOST_IMAGES)

    def held_out(self, labelled: int) -> range:
        """The folds that are held out, one a training, of a label fraction with so many labelled images."""
        return range(self.folds if labelled <= self.few_labels else 1)


class Select(Spec):
    """The best of some values: the cartesian product of `over`, a mapping of axes or settings of the stage to values.

    `by` is what they are compared by: the mean top-1 accuracy on held-out labelled images.
    """

    over: dict[str, list[Scalar]] = Field(min_length=1, max_length=MOST_SETTINGS)
    by: Literal["dev_top1"] = "dev_top1"

    @model_validator(mode="after")
    def _something_to_choose(self) -> Select:
        for name, values in self.over.items():
            if not values:
                raise ValueError(f"select.over.{name} has no values: there is nothing to choose among")
            if names_one_twice(values):
                raise ValueError(f"select.over.{name} names a value twice: {values}")
        if (options := math.prod(map(len, self.over.values()))) > MOST_OPTIONS:
            raise ValueError(f"select.over has {options:,} combinations; expected at most {MOST_OPTIONS:,}")
        return self


class Range(Spec):
    """Where a searched setting lies: one of `log`, `uniform` (numbers between two), `int` (whole ones), `choices`."""

    log: tuple[float, float] | None = Field(default=None, strict=False)
    uniform: tuple[float, float] | None = Field(default=None, strict=False)
    whole: tuple[int, int] | None = Field(default=None, strict=False, alias="int")
    choices: list[Scalar] | None = Field(default=None, min_length=1, max_length=MOST_OPTIONS)

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, raw: Any) -> Any:
        if not isinstance(raw, dict | Range):
            raise ValueError(f"expected a range such as {{log: [0.01, 1]}} or {{choices: [...]}}, found {raw!r}")
        return raw

    @model_validator(mode="after")
    def _one_range_that_holds_something(self) -> Range:
        ranges = {"log": self.log, "uniform": self.uniform, "int": self.whole}
        named = [kind for kind, found in {**ranges, "choices": self.choices}.items() if found is not None]
        if len(named) != 1:
            raise ValueError(f"expected one of log, uniform, int or choices, found {' and '.join(named) or 'none'}")
        for kind, (low, high) in ((kind, found) for kind, found in ranges.items() if found):
            if low >= high:
                raise ValueError(
                    f"{kind}: [{low}, {high}] is upside down or empty; expected the lower end first, as [{high}, {low}]"
                )
        if self.log and self.log[0] <= 0:
            raise ValueError(f"log: [{self.log[0]}, {self.log[1]}] must begin above 0")
        if self.choices and names_one_twice(self.choices):
            raise ValueError(f"choices names a value twice: {self.choices}")
        return self

    @property
    def ends(self) -> list[Scalar]:
        """Both ends, or all choices: every value that has to be valid for all between to be."""
        return list(self.choices or self.log or self.uniform or self.whole or ())


def _is_misspelled(key: str, value: Any) -> bool:
    known = [name for name in Search.model_fields if name != "settings"]
    return (
        isinstance(key, str)
        and not isinstance(value, dict | list | Range)
        and bool(difflib.get_close_matches(key, known, n=1))
    )


class Search(Spec):
    """A search for the best settings of a stage, in every cell by itself.

    In a study's file settings stand beside the other keys: `search: {learning_rate: {log: [0.01, 1]}, trials: 30}`.
    The budget is a number of sampled settings (`trials`; 20 if no budget is named) or of `device_hours` (a search ends
    before they are spent where 20 samples one after the other failed or repeat earlier ones). `sampler` is
    Optuna's TPE or random sampling, seeded; at most `parallel` settings are tried at once, as more know less of each
    other. `pruner` stops trainings early that do worse than others of the same search at the same point: `asha`
    (successive halving) or `median`; trainings of other cells, hence of other architectures, are never compared, since
    a bigger model learns later.
    """

    settings: dict[str, Range] = Field(min_length=1, max_length=MOST_SETTINGS)
    trials: int | None = Field(default=None, ge=1, le=10_000)
    device_hours: Hours | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Seed = 0
    pruner: Literal["none", "asha", "median"] = "none"
    parallel: AtOnce = 4

    @model_validator(mode="before")
    @classmethod
    def _settings_beside_the_rest(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "settings" in raw:
            return raw
        # What is no mapping is no range: `trails: 5` is a misspelled key, and no setting.
        rest = {key: value for key, value in raw.items() if key in cls.model_fields or _is_misspelled(key, value)}
        return {**rest, "settings": {key: value for key, value in raw.items() if key not in rest}}

    @model_validator(mode="after")
    def _one_budget(self) -> Search:
        if self.trials is not None and self.device_hours is not None:
            raise ValueError("a search has one budget: `trials` or `device_hours`, not both")
        return self

    @property
    def most_trials(self) -> int | None:
        """How many settings are sampled at most; None where hours are counted."""
        return DEFAULT_TRIALS if self.trials is None and self.device_hours is None else self.trials


class Explore(Spec):
    """Runs the cells of the grid one after the other, the most promising first, instead of all of them.

    A cell is judged by `objectives`: the held-out accuracy of its last stage, and a cost. Cells are picked, `parallel`
    at a time, until `budget_device_hours` are spent, where what cells share is paid once, or until the Pareto front has
    not moved for `patience` cells.
    """

    objectives: tuple[Literal["dev_top1"], Literal["train_flops", "parameters", "device_hours"]] = Field(
        default=("dev_top1", "train_flops"), strict=False
    )
    budget_device_hours: Hours
    patience: AtOnce = 10
    seed: Seed = 0
    parallel: AtOnce = 2
