"""The scoreboard: what of the paper's statements holds in a table of trials, with intervals and the trials behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from reports.comparable import joined
from reports.correlation import Correlation, correlation
from reports.effects import Design, Effect, estimate
from reports.intervals import NORMAL, student
from reports.statements import Statement, statements

Verdict = Literal["holds", "does not hold", "not enough data"]

POINTS_NEEDED = 4  # architectures without seeds, or points of a correlation
SAME_SETTINGS = "the same settings of every architecture: run again what failed"
APART = "settings that differ"
DIGITS = {"r": 3, "atanh r": 2, "points per point": 2}  # of an effect in this unit; 1 of others
SEEDS = "a second seed of more architectures"
MOST = 1000  # seeds or architectures: more is no advice


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and what these trials say of it.

    `effect` with its 95 % interval is in `unit` ("points" of top-1, or r), NaN where it is not known. `where` is the
    paper's figure or table, `basis` what the interval rests on, `need` what a verdict still needs ("" with one),
    `detail` the finding in one sentence, `ids` the trials behind.
    """

    name: str
    statement: str
    where: str
    effect: float
    low: float
    high: float
    unit: str
    verdict: Verdict
    need: str
    detail: str
    ids: tuple[str, ...]
    basis: str


def claims(trials: pd.DataFrame) -> list[Claim]:
    """The paper's statements tried on a table of comparable trials (`tables.trials`).

    Settings are compared at their best, for each seed as the other seeds choose it (`effects.side`), paired by
    architecture and seed, at the smallest label fraction that has both. A statement holds where the whole interval lies
    where it says (within 1 point where it says "alike"), does not hold where the whole interval lies elsewhere, and is
    otherwise undecided: not enough data. There is no verdict from one seed: an architecture with a single one is left
    out; the paper's own results name no seeds, so for them the interval is over architectures alone, four at least. Nor
    is there one where, because of gaps, architectures can only be compared at different settings.
    """
    return [judge(trials, statement) for statement in statements(trials)]


def judge(trials: pd.DataFrame, statement: Statement) -> Claim:
    """One statement tried on a table of comparable trials."""
    found = statement.find(trials)
    nothing = Claim(
        name=statement.name,
        statement=statement.statement,
        where=statement.source,
        effect=math.nan,
        low=math.nan,
        high=math.nan,
        unit=statement.unit,
        verdict="not enough data",
        need=f"{statement.need}: study/presets/{statement.preset}.yaml has them",
        detail="",
        ids=(),
        basis="",
    )
    if found.table.empty:
        return replace(nothing, detail="nothing to compare among these trials")
    seedless = bool((trials["source"] == "paper").all())
    start = replace(nothing, ids=_ids(found.table))
    if found.design is None:
        return _of_correlation(start, statement, found.table, found.where, seedless)
    cells = found.table if seedless else found.table[_seeds(found.table) > 1]
    compared = cells if len(cells) else found.table
    if _is_unfair(compared, found.design):
        return _unfair(start, compared, found.design == "mean", found.where)
    if len(cells):
        start = replace(start, ids=_ids(cells))
    effect = estimate(cells, found.design) if len(cells) else None
    mean = found.table.groupby("architecture")["value"].mean()
    if effect is None or (seedless and effect.architectures < POINTS_NEEDED):
        one = statement.of_one_architecture
        seeds = cells["architecture"].nunique()
        return _too_few(start, mean, found.design == "mean", found.where, seedless, seeds, one)
    start = replace(start, effect=effect.value, low=effect.low, high=effect.high, basis=_basis(effect, seedless))
    notes = ["for these architectures only"] if effect.fixed and not seedless else []
    return _judged(start, statement, found.where, [*notes, joined(cells["caveat"])], _more(effect, statement))


def _ids(table: pd.DataFrame) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id for ids in table["ids"] for id in ids))


def _seeds(cells: pd.DataFrame) -> pd.Series:
    return cells.groupby("architecture")["seed"].transform("nunique")


def _is_unfair(cells: pd.DataFrame, design: Design | None) -> bool:
    """Whether architectures stand at different settings, or, where they are averaged, at ones known to be worse."""
    return bool(cells["apart"].any() or (design == "mean" and cells["worse"].any()))


def _unfair(claim: Claim, cells: pd.DataFrame, is_mean: bool, where: str) -> Claim:
    """No verdict and no interval on a comparison whose sides are not alike: its error would say nothing."""
    effect = float(cells.groupby("architecture")["value"].mean().mean()) if is_mean else math.nan
    found = f"{effect:+.1f} {claim.unit} {where}, without an interval" if is_mean else f"not compared {where}"
    detail = f"{found}: {joined(cells['caveat'])}"
    return replace(claim, effect=effect, ids=_ids(cells), detail=detail, need=SAME_SETTINGS, basis=APART)


def _too_few(
    claim: Claim, means: pd.Series, is_mean: bool, where: str, seedless: bool, seeds: int, of_one: bool
) -> Claim:
    count = _count(len(means), "architecture")
    effect = float(means.mean()) if is_mean else math.nan
    detail = f"{effect:+.1f} {claim.unit} {where}, without an interval" if is_mean else f"too few architectures {where}"
    if seedless:
        more = "seeds of this one architecture" if of_one else f"{POINTS_NEEDED} architectures"
        need, basis = f"{more}, as no seeds are known", f"{count} of one run each"
    elif seeds:
        need, basis = (SEEDS if seeds < len(means) else claim.need), count
    else:
        need, basis = "a second seed", f"1 seed x {count}"
    return replace(claim, effect=effect, detail=detail, need=need, basis=basis)


def _of_correlation(claim: Claim, statement: Statement, points: pd.DataFrame, where: str, seedless: bool) -> Claim:
    kept = points if seedless else points[points["n"] > 1]
    if _is_unfair(kept, None):
        return replace(
            claim,
            ids=_ids(kept),
            detail=f"not compared {where}: {joined(kept['caveat'])}",
            need=SAME_SETTINGS,
            basis=APART,
        )
    found = correlation(kept["x"].tolist(), kept["y"].tolist())
    claim = replace(claim, ids=_ids(kept) or claim.ids)
    number = _count(len(kept), "point")
    claim = replace(claim, basis=number + (" of one run each" if seedless else ", means over seeds"))
    if found is None or found.n < POINTS_NEEDED:
        seeds = "" if seedless else " with two seeds each"
        return replace(claim, need=f"{POINTS_NEEDED} points{seeds}", detail=f"only {number} {where}")
    if "other" in kept:
        other = correlation(kept["x"].tolist(), kept["other"].tolist())
        return claim if other is None else _of_two(claim, statement, found, other, where)
    claim = replace(claim, effect=found.r, low=found.low, high=found.high)
    distance = abs(math.atanh(found.r)) if abs(found.r) < 1 else math.inf
    more = f"about {math.ceil((NORMAL / distance) ** 2 + 3)} points" if distance > 0.06 else f"more than {MOST} points"
    return _judged(claim, statement, where, [joined(kept["caveat"])], more)


def _of_two(claim: Claim, statement: Statement, more: Correlation, less: Correlation, where: str) -> Claim:
    """Difference of two correlations with the same x, by Fisher's transform.

    Its standard error is that of independent ones, sqrt(2 / (n - 3)): too large where they go together, never too
    small.
    """
    value = math.atanh(more.r) - math.atanh(less.r)
    half = NORMAL * math.sqrt(2 / (more.n - 3))
    claim = replace(claim, effect=value, low=value - half, high=value + half)
    points = math.ceil(2 * (NORMAL / value) ** 2 + 3) if value else math.inf
    needed = f"about {points} points" if points <= MOST else f"more than {MOST} points"
    return _judged(claim, statement, f"(r = {more.r:.3f} against {less.r:.3f}) {where}", [], needed)


def _judged(claim: Claim, statement: Statement, where: str, notes: Sequence[str], more: str) -> Claim:
    digits = DIGITS.get(claim.unit, 1)
    low, high = (f"{value:.{digits}f}" for value in (claim.low, claim.high))
    told = "; ".join([f"95 % interval {low} to {high}", *filter(None, notes)])
    detail = f"{claim.effect:+.{digits}f} {claim.unit} {where} ({told})"
    if statement.above < claim.low and claim.high < statement.below:
        return replace(claim, verdict="holds", need="", detail=detail)
    if claim.high < statement.above or claim.low > statement.below:
        return replace(claim, verdict="does not hold", need="", detail=f"{detail}, which contradicts it")
    edge = _edge(claim, statement)
    spanned = "zero" if edge == 0 else f"{edge:g}"
    return replace(claim, need=f"{more} at the present spread", detail=f"undecided: {detail} spans {spanned}")


def _edge(claim: Claim, statement: Statement) -> float:
    """The end of the statement's range that the interval spans, the nearer one of two."""
    edges = [edge for edge in (statement.above, statement.below) if claim.low <= edge <= claim.high]
    return min(edges, key=lambda edge: abs(edge - claim.effect))


def _more(effect: Effect, statement: Statement) -> str:
    """How many seeds, or architectures, would clear the nearest end of the statement's range, all else being equal."""
    distance = min(abs(effect.value - edge) for edge in (statement.above, statement.below) if math.isfinite(edge))
    half = effect.high - effect.value
    over_seeds = effect.limited_by == "seeds"
    have = effect.seeds if over_seeds else effect.architectures
    spread = half / student(effect.freedom) * math.sqrt(have)
    lost = effect.architectures - effect.freedom if not over_seeds else 0
    for n in range(have + 1, MOST + 1):
        freedom = effect.architectures * (n - 1) if over_seeds else n - lost
        if student(freedom) * spread / math.sqrt(n) < distance:
            return f"about {n} {effect.limited_by}"
    return f"more than {MOST} {effect.limited_by}"


def _basis(effect: Effect, seedless: bool) -> str:
    count = _count(effect.architectures, "architecture")
    if seedless:
        return f"{count} of one run each: over architectures only"
    return f"{effect.seeds} seeds x {count}{', over seeds for these' if effect.fixed else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
