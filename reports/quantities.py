"""The kinds of values that a record may hold, each within bounds in which sums, products and tables stay finite."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, TypeGuard

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue, Strict

LARGEST = 1e40
"""More than any number of operations, and than what float32 can hold."""
MOST_COUNT = 2**63  # as tables store it
YEARS = range(1970, 2201)


def _in_our_time(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"is in the year {moment.year}; expected {YEARS[0]} to {YEARS[-1]}")
    return moment


Number = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=0, le=LARGEST)]
Duration = Annotated[float, Strict(), Field(allow_inf_nan=False, gt=0, le=LARGEST)]
Count = Annotated[int, Strict(), Field(ge=0, lt=MOST_COUNT)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_our_time)]
TrialId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]  # it is also a file name


def check_settings(settings: Mapping[str, JsonValue], *, reads_labels: bool) -> None:
    """Refuse settings of a trial that its stage cannot have had, as far as plans and reports read them.

    Raises ValueError, which names the setting.
    """
    if not is_bounded(dict(settings)):
        raise ValueError(f"settings hold NaN, infinity or a number beyond {LARGEST:g}; expected finite numbers only")
    fraction = settings.get("label_fraction")
    if (fraction is not None or reads_labels) and not (_is_number(fraction) and 0 < fraction <= 1):
        raise ValueError(f"label_fraction is {fraction!r}; expected a share above 0 and up to 1")
    for name in ("head_layer", "head_depth"):
        value = settings.get(name)
        if value is not None and not (_is_whole(value) and 0 <= value < 100):
            raise ValueError(f"{name} is {value!r}; expected a number of layers")
    _check_optimization(settings.get("optimization"))


def is_bounded(value: JsonValue) -> bool:
    """Whether all numbers of a plain value are finite and not beyond `LARGEST`, whole ones not beyond 64 bits."""
    if isinstance(value, dict):
        return all(is_bounded(item) for item in value.values())
    if isinstance(value, list):
        return all(is_bounded(item) for item in value)
    if isinstance(value, int):
        return -MOST_COUNT <= value < MOST_COUNT
    return not isinstance(value, float) or abs(value) <= LARGEST  # false for NaN


def _check_optimization(found: JsonValue) -> None:
    if found is None:
        return
    if not isinstance(found, dict):
        raise ValueError(f"optimization is {found!r}; expected settings")
    batch = found.get("global_batch_size")
    if batch is not None and not (_is_whole(batch) and batch >= 1):
        raise ValueError(f"optimization.global_batch_size is {batch!r}; expected a number of images")
    precision = found.get("precision")
    if precision is not None and not isinstance(precision, str):
        raise ValueError(f"optimization.precision is {precision!r}; expected a name")


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: JsonValue) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
