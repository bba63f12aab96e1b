"""What pydantic finds wrong with a specification, as sentences for the one who wrote it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, get_args

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from reports.plain_scalar import MisreadError, read_plain, shown
from study.hint import hint
from trainables.spec import Spec

MOST_PROBLEMS = 10
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")

Location = tuple[int | str, ...]


def explain_errors(error: ValidationError, model: type[Spec]) -> list[str]:
    """One line per error: where, what was found, what was expected, and the nearest known key or choice."""
    found = error.errors(include_url=False)
    lines = list(dict.fromkeys(_line(item["type"], item["loc"], item, model) for item in found[:MOST_PROBLEMS]))
    return [*lines, f"and {len(found) - MOST_PROBLEMS:,} problems more"] if len(found) > MOST_PROBLEMS else lines


def _line(kind: str, location: Location, item: Any, model: type[Spec]) -> str:
    path = ".".join(str(part)[:100] for part in location)
    value = item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key `{path}`; {hint(str(location[-1]), _keys_at(model, location[:-1]))}"
    if kind == "missing":
        return f"`{path}` is required and missing"
    if kind == "value_error":
        return f"`{path}`: {item['ctx']['error']}" if path else str(item["ctx"]["error"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        near = hint(str(value), choices, "")
        return f"`{path}` is {_value(value)}, expected one of {', '.join(choices)}" + (f"; {near}" if near else "")
    if kind in OUT_OF_RANGE and (limits := range_at(model, location)):
        return f"`{path}` is {_value(value)}, expected a number {limits}"
    return f"`{path}` is {_value(value)}: {item['msg'].lower()}{_quotes(kind, value)}"


def _quotes(kind: str, value: Any) -> str:
    """Whether text was written without quotes that looks like a number, or a number with them."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; write quotes around it"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        with contextlib.suppress(MisreadError):
            return "" if isinstance(read_plain(value), str) else "; write it without quotes"
    return ""


def _value(value: Any) -> str:
    if isinstance(value, str):
        return shown(value)
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def range_at(model: type[Spec], location: Location) -> str:
    """The range of the number at a location, such as `from 1 to 4,096`; "" where none is stated."""
    field = _field_at(model, location)
    ends: dict[str, str] = {}
    for limit in [] if field is None else _limits(field):
        for name in ("ge", "gt", "le", "lt"):
            if (end := getattr(limit, name, None)) is not None:
                ends[name] = f"{end:,}" if isinstance(end, int) else f"{end:g}"
    low = f"from {ends['ge']}" if "ge" in ends else f"above {ends['gt']}" if "gt" in ends else ""
    high = f"to {ends['le']}" if "le" in ends else f"below {ends['lt']}" if "lt" in ends else ""
    return " ".join(part for part in (low, high) if part)


def _limits(found: Any) -> Iterator[annotated_types.BaseMetadata]:
    """Limits of a number's type, those inside of unions and containers too."""
    if isinstance(found, FieldInfo):
        yield from (one for one in found.metadata if isinstance(one, annotated_types.BaseMetadata))
        yield from _limits(found.annotation)
    for metadata in getattr(found, "__metadata__", ()):
        yield from _limits(metadata)
    for inside in get_args(found):
        if not isinstance(inside, FieldInfo):
            yield from _limits(inside)


def _field_at(model: type[Spec], location: Location) -> FieldInfo | None:
    """The last field that a location names; None where it names none."""
    current: type[Spec] | None = model
    field: FieldInfo | None = None
    for part in location:
        fields = {} if current is None else current.model_fields
        by_alias = {one.alias or name: one for name, one in fields.items()}
        if part in by_alias:
            field = by_alias[str(part)]
            current = _model_of(field.annotation)
    return field


def _model_of(annotation: Any) -> type[Spec] | None:
    """The model that an annotation is, or that its union or container holds."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next((found for inside in get_args(annotation) if (found := _model_of(inside)) is not None), None)


def _keys_at(model: type[Spec], location: Location) -> list[str]:
    """What a file calls the fields of the model that stands at `location` inside `model`; keys of mappings are passed
    over."""
    current = model
    for part in location:
        if part in current.model_fields:
            current = _model_of(current.model_fields[str(part)].annotation) or current
    return [field.alias or name for name, field in current.model_fields.items()]
