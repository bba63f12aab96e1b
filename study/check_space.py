"""What searches may sample must be trainable: found out at the corners of what they search, before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from study.adaptive import Range, Scalar
from study.cells import Cell, TrialMaker
from study.choices import Choice, described
from study.trial import TrialSpec

MOST_WHOLE = 64
"""A range of so many whole numbers is tried number by number: not every batch size between two can be shared."""


def check_space(choice: Choice, maker: TrialMaker, check: Callable[[TrialSpec], None]) -> None:
    """Refuse a search that may sample settings which cannot be trained; `check` raises ValueError for such a trial.

    Tried are all combinations of the ends of ranges, and every other value that is listed or whole beside the first
    ends. What only a combination of values between the ends makes impossible is not found.
    """
    base = choice.base[0]
    for changes in corners(choice):
        try:
            check(maker.with_parent(choice.stage, {**choice.cell, **changes}, base.parent, base.dev))
        except ValueError as error:
            raise ValueError(
                f"stages.{choice.stage}: the search may sample {described(changes)}, which cannot be trained: {error}"
            ) from None


def corners(choice: Choice) -> Iterator[Cell]:
    """Combinations of the ends of a search's ranges, and single values between."""
    ends = {axis: found.ends for axis, found in choice.space.items()}
    for values in itertools.product(*([found[0], found[-1]] for found in ends.values())):
        yield dict(zip(ends, values, strict=True))
    first = {axis: found[0] for axis, found in ends.items()}
    for axis, found in choice.space.items():
        for value in _between(found):
            yield {**first, axis: value}


def _between(found: Range) -> list[Scalar]:
    if found.choices is not None:
        return found.choices[1:-1]
    return [] if found.whole is None else [*range(*found.whole)[1 : MOST_WHOLE + 1]]
