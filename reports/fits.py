"""Fits that may be believed: error against parameters with intervals, the biggest model predicted, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from reports.comparable import joined
from reports.intervals import RESAMPLES, Array, expanded_interval, resampled_means, seed_freedom, values_of
from reports.power_law import huber, huber_delta, least_squares, leverage, log_error
from reports.reversals import Flag, reversals
from reports.scaling import has_selective_kernels, size_points

Law = Literal["power law", "power law with floor"]
Method = Literal["least squares", "Huber"]
Family = Literal["all", "plain", "selective kernels"]

STAGES = ("finetune", "linear", "supervised")
LAWS: tuple[tuple[Law, Method], ...] = (
    ("power law", "least squares"),
    ("power law", "Huber"),
    ("power law with floor", "Huber"),
)
SIZES_NEEDED: dict[Law, int] = {"power law": 4, "power law with floor": 5}
SMALLEST_RANGE = 2.0  # largest over smallest number of parameters, below which there is no slope to speak of
WIDEST = 2.0  # width of an exponent's interval over the exponent, above which a floor trades with it at will
UNIDENTIFIED = (
    "floor not identified: its interval or the exponent's reaches zero, or that of the exponent is wider than twice it"
)
MORE_SIZES = "sizes over a wider range, or more of them"
SEARCHED_RESAMPLES = 200  # of fits without a closed form


@dataclass(frozen=True)
class Point:
    """One architecture: its error 1 - top-1 (mean over seeds), that of the law, and log(error / law's error)."""

    architecture: str
    parameters: int
    error: float
    fitted: float
    residual: float
    ids: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """The biggest model's error, predicted with its 95 % interval by a fit to all others, and the truth."""

    architecture: str
    parameters: int
    predicted: float
    low: float
    high: float
    truth: float

    @property
    def inside(self) -> bool:
        return self.low <= self.truth <= self.high


@dataclass(frozen=True)
class Subject:
    """What is fitted: a stage's errors at one label fraction, of one family, by one law; and the models that are worse
    than a smaller one."""

    stage: str
    label_fraction: float
    family: Family
    law: Law
    flagged: tuple[Flag, ...]


@dataclass(frozen=True)
class Fit(Subject):
    """error = `coefficient` x parameters^-`exponent` + `floor`, with 95 % intervals; `floor` is 0 in a law without.

    `low` and `high` are over architectures, whose means carry the noise of their seeds; `seeds_low` and `seeds_high`
    over seeds alone, for these architectures (NaN where no architecture has two). `basis` says so in words.
    """

    method: Method
    coefficient: float
    exponent: float
    low: float
    high: float
    seeds_low: float
    seeds_high: float
    floor: float
    floor_low: float
    floor_high: float
    points: tuple[Point, ...]
    held_out: HeldOut | None
    basis: str


@dataclass(frozen=True)
class Refusal(Subject):
    """Why there is no fit, and what it needs."""

    reason: str
    need: str


def fits(trials: pd.DataFrame) -> list[Fit | Refusal]:
    """Every one of `LAWS` fitted to every stage, label fraction and family of a table of comparable trials.

    Families with and without selective kernels are fitted apart, and together ("all") where there are both. A point is
    an architecture's best setting, its mean over seeds, as in `scaling.size_points`.
    """
    found: list[Fit | Refusal] = []
    for stage in STAGES:
        points = size_points(trials, stage)
        points = points.assign(selective_kernels=has_selective_kernels(points["architecture"]))
        for fraction, group in points.groupby("label_fraction", sort=True):
            for family, members in _families(group):
                flagged = tuple(reversals(members))
                for law, method in LAWS:
                    subject = Subject(stage, float(str(fraction)), family, law, flagged)
                    found.append(_fit(trials, members, subject, method))
    return found


def predict(fit: Fit, parameters: Sequence[float]) -> Array:
    """Error of a model with so many parameters by the fitted law: (n,), in [0, 1] where the law holds."""
    return fit.coefficient * np.asarray(parameters, np.float64) ** -fit.exponent + fit.floor


def _families(points: pd.DataFrame) -> Iterator[tuple[Family, pd.DataFrame]]:
    selective = points["selective_kernels"]
    if selective.nunique() > 1:
        yield "all", points
    if not selective.all():
        yield "plain", points[~selective]
    if selective.any():
        yield "selective kernels", points[selective]


def _fit(trials: pd.DataFrame, points: pd.DataFrame, subject: Subject, method: Method) -> Fit | Refusal:
    out = {flag.architecture for flag in subject.flagged if flag.left_out}
    kept = points[~points["architecture"].isin(out)].sort_values(["parameters", "architecture"])
    refusal = _refusal(kept, subject.law, sorted(out))
    if refusal is not None:
        return Refusal(**vars(subject), reason=refusal[0], need=refusal[1])
    return _estimate(subject, method, kept, values_of(trials, kept["ids"].tolist()))


def _refusal(points: pd.DataFrame, law: Law, out: Sequence[str]) -> tuple[str, str] | None:
    if points["apart"].any():
        return joined(points["caveat"]), "every size at the same settings: run again what failed"
    sizes, needed = points["parameters"].nunique(), SIZES_NEEDED[law]
    without = f" without {', '.join(out)}, which a smaller model beats" if out else ""
    if sizes < needed:
        found, more = ("size" if n == 1 else "sizes" for n in (sizes, needed - sizes))
        return f"{sizes} {found}{without}; a {law} needs {needed}", f"{needed - sizes} more {more} of this family"
    if points["parameters"].max() < SMALLEST_RANGE * points["parameters"].min():
        span = points["parameters"].max() / points["parameters"].min()
        return f"sizes span a factor of {span:.2f} only", f"sizes that span a factor of {SMALLEST_RANGE:g} or more"
    if (points["mean"] >= 1).any():
        names = ", ".join(points.loc[points["mean"] >= 1, "architecture"])
        return f"{names} makes no error, and zero has no logarithm", "more, or harder, test images"
    return None


def _estimate(subject: Subject, method: Method, points: pd.DataFrame, cells: list[Array]) -> Fit | Refusal:
    """The fit to points that were found fit for it, with the residual bootstrap of a fixed design; a floor must be
    told by them.

    Sizes are chosen, not drawn, so residuals are resampled, not pairs; each is divided by sqrt(1 - leverage), as a fit
    pulls its own points close.
    """
    law = subject.law
    x, y = np.log(points["parameters"].to_numpy(np.float64)), np.log(1 - points["mean"].to_numpy(np.float64))
    theta, delta = _solution(x, y, law, method)
    draws = _bootstrap(x, y, theta, delta, law, method)
    freedom = len(x) - len(theta)
    low, high = expanded_interval(theta[1], draws[:, 1], freedom)
    floor, floors = 0.0, (0.0, 0.0)
    if len(theta) == 3:
        floor = math.exp(theta[2])
        floors = expanded_interval(floor, np.exp(draws[:, 2]), freedom)
        if not (floors[0] > 0 and low > 0 and high - low <= WIDEST * theta[1]):
            return Refusal(**vars(subject), reason=UNIDENTIFIED, need=MORE_SIZES)
    residuals = y - log_error(theta, x)
    seeds = _over_seeds(x, y, cells, theta, delta, law, method)
    return Fit(
        **vars(subject),
        method=method,
        coefficient=math.exp(theta[0]),
        exponent=float(theta[1]),
        low=low,
        high=high,
        seeds_low=seeds[0],
        seeds_high=seeds[1],
        floor=floor,
        floor_low=floors[0],
        floor_high=floors[1],
        points=_points(points, y, residuals),
        held_out=_held_out(points, x, y, law, method),
        basis=_basis(cells),
    )


def _points(points: pd.DataFrame, y: Array, residuals: Array) -> tuple[Point, ...]:
    columns = [points[name].tolist() for name in ("architecture", "parameters", "ids")]
    rows = zip(*columns, np.exp(y), np.exp(y - residuals), residuals, strict=True)
    return tuple(
        Point(architecture, parameters, float(error), float(law), float(residual), tuple(ids))
        for architecture, parameters, ids, error, law, residual in rows
    )


def _solve(x: Array, y: Array, law: Law, method: Method, delta: float, near: Array | None = None) -> Array:
    if method == "least squares":
        return least_squares(x, y)
    return huber(x, y, law == "power law with floor", delta, near)


def _solution(x: Array, y: Array, law: Law, method: Method) -> tuple[Array, float]:
    """Parameters of the law (p,) and Huber's threshold, which a first solution with that of a line sets."""
    delta = huber_delta(y - log_error(least_squares(x, y), x))
    first = _solve(x, y[None], law, method, delta)[0]
    delta = huber_delta(y - log_error(first, x))
    return _solve(x, y[None], law, method, delta)[0], delta


def _bootstrap(x: Array, y: Array, theta: Array, delta: float, law: Law, method: Method) -> Array:
    """Parameters of the law of resamples (m, p) about its solution `theta`."""
    noise = np.random.default_rng(0).choice(_spread(x, y, theta), size=(_count(method), len(x)))
    return _solve(x, log_error(theta, x) + noise, law, method, delta, theta)


def _count(method: Method) -> int:
    return RESAMPLES if method == "least squares" else SEARCHED_RESAMPLES


def _spread(x: Array, y: Array, theta: Array) -> Array:
    residuals = y - log_error(theta, x)
    spread = residuals / np.sqrt(np.maximum(1 - leverage(theta, x), 1 / len(x)))  # a floor may rest on a single point
    return spread - spread.mean()  # type: ignore[no-any-return]


def _over_seeds(
    x: Array, y: Array, cells: list[Array], theta: Array, delta: float, law: Law, method: Method
) -> tuple[float, float]:
    """Interval of the exponent over seeds alone; NaN where any size has a single one.

    Log errors move as far as means do, times the slope of the logarithm: a resampled mean may have no error at all.
    """
    freedom = seed_freedom(cells)
    if min(map(len, cells)) < 2:
        return math.nan, math.nan
    means = np.array([values.mean() for values in cells])
    moved = (resampled_means(cells, np.random.default_rng(1), _count(method)) - means) / (1 - means)
    draws = _solve(x, y - moved, law, method, delta, theta)
    return expanded_interval(theta[1], draws[:, 1], freedom)


def _held_out(points: pd.DataFrame, x: Array, y: Array, law: Law, method: Method) -> HeldOut | None:
    """None where the others are too few sizes for the law."""
    if points["parameters"].nunique() <= SIZES_NEEDED[law]:
        return None
    biggest, rest = points.iloc[-1], slice(0, len(x) - 1)
    theta, delta = _solution(x[rest], y[rest], law, method)
    draws = _bootstrap(x[rest], y[rest], theta, delta, law, method)
    predicted = float(log_error(theta, x[-1:])[0])
    noise = np.random.default_rng(2).choice(_spread(x[rest], y[rest], theta), size=len(draws))
    low, high = expanded_interval(predicted, log_error(draws, x[-1:])[:, 0] + noise, len(x) - 1 - len(theta))
    return HeldOut(
        architecture=str(biggest["architecture"]),
        parameters=int(biggest["parameters"]),
        predicted=math.exp(predicted),
        low=math.exp(low),
        high=math.exp(min(high, 0.0)),
        truth=float(1 - biggest["mean"]),
    )


def _basis(cells: Sequence[Array]) -> str:
    fewest, most = min(map(len, cells)), max(map(len, cells))
    if most == 1:
        return f"{len(cells)} architectures of one run each: the interval is over architectures only"
    return f"{len(cells)} architectures x {fewest if fewest == most else f'{fewest} to {most}'} seeds"
