"""Which settings may be compared between architectures and label fractions, and what must be said where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

ACROSS = ("architecture", "parameters", "label_fraction", "labels")
"""Keys whose values figures compare with each other; any other key keeps what it names apart."""
NAMED = {
    "head_depth": "head depth",
    "head_layer": "layer",
    "temperature": "temperature",
    "distillation_weight": "weight",
    "teacher_architecture": "teacher",
}
"""Settings that a reader knows by name; `stage` and others are told apart without words."""
CAVEATS = ("caveat", "apart", "worse")
SAME, BY_FRACTION, APART = 0, 1, 2
LISTED = 4  # values of a setting that are named
ENOUGH = (2, 1)  # seeds of a setting, the more the better: one lucky seed is not to be chosen


class Row(NamedTuple):
    """A setting of a cell: the cell, the part of the comparison that it is in, and the number of its seeds."""

    cell: object
    part: object
    setting: Any
    seeds: int


def allowed(cells: pd.DataFrame, by: Sequence[str], across: Sequence[str] = ACROSS) -> pd.DataFrame:
    """Of settings of several cells (`by`, setting, n seeds, mean), those that may stand for their cells.

    A setting may where every cell that it is compared with has it too, with two seeds if any has; what some lack, for
    instance because trials failed, would put a worse setting of one architecture beside a better one of another. Label
    fractions at which no architecture has a setting do not count: it was not to be tried there. Where this leaves
    nothing, those count that all architectures of one label fraction have; where there are none either, those of a cell
    with two seeds.

    Compared are the values of those of `by` that are in `across`. Adds the column `tier`: `SAME` for all cells,
    `BY_FRACTION` where label fractions have others, `APART` where every cell stands for itself.
    """
    compared, apart = [name for name in by if name in across], [name for name in by if name not in across]
    part = ["label_fraction"] if "label_fraction" in compared else []
    columns = (keys_of(cells, compared), keys_of(cells, part), cells["setting"].tolist(), cells["n"].tolist())
    rows = [Row(*row) for row in zip(*columns, strict=True)]
    tiers: dict[int, int] = {}
    for group in _grouped(range(len(rows)), keys_of(cells, apart).__getitem__).values():
        tiers |= _tiers(group, rows)
    kept = sorted(tiers)
    return cells.iloc[kept].assign(tier=[tiers[i] for i in kept])


def keys_of(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[object, ...]]:
    """For each row its values in the columns `names`, None where one is missing."""
    if not names:
        return [()] * len(table)
    columns = [
        [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for column in (table[name] for name in names)
    ]
    return list(zip(*columns, strict=True))


def with_caveats(
    chosen: pd.DataFrame, left_out: pd.DataFrame, by: Sequence[str], across: Sequence[str] = ACROSS
) -> pd.DataFrame:
    """The rows of `allowed` that were chosen, with what must be said of them; `left_out` are those not allowed.

    Adds the columns caveat ("" where there is none), apart (architectures stand at different settings), and worse (a
    better setting that at least half of the cells have was left out, as others lack it).
    """
    if left_out.empty and (chosen["tier"] == SAME).all():
        return chosen.assign(caveat="", apart=False, worse=False)
    within = [name for name in by if name not in across]
    compared = [name for name in by if name in across]
    outside = _grouped(range(len(left_out)), keys_of(left_out, within).__getitem__)
    parts = [
        _told(chosen.iloc[group], left_out.iloc[outside.get(key, [])], compared)
        for key, group in _grouped(range(len(chosen)), keys_of(chosen, within).__getitem__).items()
    ]
    return pd.concat(parts).loc[chosen.index]


def joined(caveats: Iterable[str]) -> str:
    """All different caveats in one line, "" where there is none."""
    return "; ".join(dict.fromkeys(part for caveat in caveats if caveat for part in caveat.split("; ")))


def _grouped(numbers: Iterable[int], key: Callable[[int], object]) -> dict[object, list[int]]:
    """Numbers with equal keys."""
    groups: dict[object, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    return groups


def _tiers(group: Sequence[int], rows: Sequence[Row]) -> dict[int, int]:
    """Numbers of the rows of a group that may be compared, with their tier."""
    parts = list(_grouped(group, lambda i: rows[i].part).values())
    shared = _shared(parts, rows)
    if all(any(i in shared for i in part) for part in parts):
        settings = [{rows[i].setting for i in part if i in shared} for part in parts]
        return dict.fromkeys(shared, SAME if all(found == settings[0] for found in settings) else BY_FRACTION)
    tiers: dict[int, int] = {}
    for part in parts:
        if shared := _shared([part], rows):
            tiers |= dict.fromkeys(shared, BY_FRACTION)
            continue
        most: dict[object, int] = {}
        for i in part:
            most[rows[i].cell] = max(rows[i].seeds, most.get(rows[i].cell, 0))
        enough = (i for i in part if rows[i].seeds >= min(ENOUGH[0], most[rows[i].cell]))
        tiers |= dict.fromkeys(enough, APART)
    return tiers


def _shared(parts: Sequence[Sequence[int]], rows: Sequence[Row]) -> set[int]:
    """Rows of the settings that all cells have of each part in which any has; none where no setting is."""
    several = len({rows[i].cell for part in parts for i in part}) > 1
    for seeds in ENOUGH:
        lacking: set[object] = set()
        enough: list[int] = []
        for part in parts:
            cells = {rows[i].cell for i in part}
            have: dict[object, set[object]] = {rows[i].setting: set() for i in part}
            for i in part:
                if rows[i].seeds >= seeds:
                    have[rows[i].setting].add(rows[i].cell)
                    enough.append(i)
            lacking |= {setting for setting, found in have.items() if found != cells}
        if several:
            lacking |= {rows[i].setting for i in enough if pd.isna(rows[i].setting)}
        shared = {i for i in enough if rows[i].setting not in lacking}
        if shared:
            return shared
    return set()


def _told(chosen: pd.DataFrame, left_out: pd.DataFrame, across: Sequence[str]) -> pd.DataFrame:
    of_all = ""
    if (chosen["tier"] != SAME).any() and chosen["setting"].nunique(dropna=False) > 1:
        of_all = _differences(chosen, " between label fractions")
    scopes = chosen.groupby("label_fraction", dropna=False) if "label_fraction" in across else [((), chosen)]
    parts = []
    for _, scope in scopes:
        apart = bool((scope["tier"] == APART).any())
        better = _left_out(scope, left_out, across) if across and not apart else ""
        caveat = _differences(scope) if apart else joined([of_all, better])
        parts.append(scope.assign(caveat=caveat, apart=apart, worse=bool(better)))
    return pd.concat(parts)


def _differences(points: pd.DataFrame, between: str = "") -> str:
    """The settings that differ between points, by name and value."""
    found = []
    for name, word in NAMED.items():
        values = sorted(points[name].dropna().unique(), key=str) if name in points else []
        told = [f"{word} {_text(value)}" for value in values]
        if values and points[name].isna().any():
            told.append(f"unknown {word}")
        if len(told) > 1:
            found.append(" against ".join(told) if len(told) <= LISTED else f"{len(told)} values of {word}")
    return f"settings differ{between} ({', '.join(found) or 'in other settings'})"


def _left_out(chosen: pd.DataFrame, left_out: pd.DataFrame, across: Sequence[str]) -> str:
    """A setting that at least half of the chosen points' cells have, and are better with, by name; else ""."""
    others = left_out[left_out["setting"].notna()].merge(
        chosen[[*across, "mean"]], on=list(across), suffixes=("", "_chosen")
    )
    gains = (others["mean"] - others["mean_chosen"]).groupby(others["setting"]).agg(["mean", "count"])
    gains = gains[(gains["mean"] > 0) & (2 * gains["count"] >= len(chosen))]
    if gains.empty:
        return ""
    best = others[others["setting"] == gains["mean"].idxmax()].iloc[0]
    names = [f"{word} {_text(best[name])}" for name, word in NAMED.items() if name in best and pd.notna(best[name])]
    return f"better settings are left out, as not all have them ({', '.join(names) or 'other settings'})"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
