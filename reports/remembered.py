"""What was computed from a table, remembered as long as the table is: most parts of a report begin with the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

import pandas as pd

Result = TypeVar("Result")

_KNOWN: dict[int, dict[Hashable, object]] = {}


def remembered(table: pd.DataFrame, key: Hashable, compute: Callable[[], Result]) -> Result:
    """The result of `compute`, which `key` names, computed once for each table.

    Neither the table nor the result may be changed in place. Nothing is kept of a table that is gone.
    """
    if id(table) not in _KNOWN:
        _KNOWN[id(table)] = {}
        weakref.finalize(table, _KNOWN.pop, id(table))
    known = _KNOWN[id(table)]
    if key not in known:
        known[key] = compute()
    return known[key]  # type: ignore[return-value]
