"""Power laws and correlations: the paper's values, known laws recovered, intervals that cover, and refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from reports.correlation import correlation, linear_and_finetuned
from reports.fits import Fit, Law, Method, Refusal, fits, predict
from reports.intervals import expanded_interval, resampled_means, student
from reports.paper import table_1
from reports.power_law import huber, huber_delta, least_squares, log_error
from reports.tables import trials
from synthetic import record

SIZES = {"r18": 11_180_736, "r34": 21_288_896, "r50": 23_561_152, "r101": 42_605_504, "r152": 58_295_232}


def three_seeds(error: float) -> list[float]:
    """The errors of three seeds that hardly differ."""
    return [error - 1e-4, error, error + 1e-4]


def found(
    table: pd.DataFrame, law: Law = "power law", method: Method = "least squares", **wanted: object
) -> Fit | Refusal:
    """The one that agrees with `wanted`; by default fine-tuned, plain, by least squares without a floor."""
    wanted = {"stage": "finetune", "family": "plain", "law": law, **wanted}
    matching = [one for one in fits(table) if all(getattr(one, k) == wanted[k] for k in wanted)]
    return next(one for one in matching if isinstance(one, Refusal) or one.method == method)


def fit_of(table: pd.DataFrame, law: Law = "power law", method: Method = "least squares", **wanted: object) -> Fit:
    one = found(table, law, method, **wanted)
    assert isinstance(one, Fit), one
    return one


def runs(errors: Mapping[str, float | Sequence[float]], sizes: Mapping[str, int] = SIZES) -> pd.DataFrame:
    """Fine-tuned trials of architectures with these errors, one a seed."""
    records = [
        record(f"{name}-s{seed}", architecture=name, seed=seed, top1=1 - error, label_fraction=0.1, head_layer=1)
        for name, values in errors.items()
        for seed, error in enumerate(np.atleast_1d(np.asarray(values)).tolist())
    ]
    table = trials(records)
    return table.assign(parameters=table["architecture"].map(sizes).astype("Int64"))


@pytest.mark.parametrize(
    ("stage", "label_fraction", "exponent"),
    [("finetune", 0.01, 0.143), ("finetune", 0.1, 0.128), ("finetune", 1.0, 0.091), ("supervised", 1.0, 0.043)],
)
def test_exponents_of_the_thirteen_models_of_table_1(stage: str, label_fraction: float, exponent: float) -> None:
    fit = fit_of(table_1(), stage=stage, label_fraction=label_fraction, family="all")
    assert fit.exponent == pytest.approx(exponent, abs=5e-4)
    assert len(fit.points) == 13 and fit.low < fit.exponent < fit.high
    assert math.isnan(fit.seeds_low) and "over architectures only" in fit.basis


def test_plain_family_of_table_1() -> None:
    """With the exact counts of the networks instead of the millions that the table prints it would be 0.150."""
    assert fit_of(table_1(), label_fraction=0.01).exponent == pytest.approx(0.151, abs=5e-4)


def test_residuals_and_prediction_are_those_of_a_straight_line_in_logs() -> None:
    fit = fit_of(table_1(), label_fraction=0.1)
    x = np.log([point.parameters for point in fit.points])
    y = np.log([point.error for point in fit.points])
    slope, level = np.polyfit(x, y, 1)
    assert (-fit.exponent, math.log(fit.coefficient)) == pytest.approx((slope, level))
    assert [point.residual for point in fit.points] == pytest.approx((y - slope * x - level).tolist())
    assert predict(fit, [1e8]) == pytest.approx(np.exp(level + slope * math.log(1e8)))


def test_biggest_model_is_predicted_from_the_others() -> None:
    fit = fit_of(table_1(), label_fraction=0.01, family="selective kernels")
    x = np.log([point.parameters for point in fit.points])
    y = np.log([point.error for point in fit.points])
    line = np.polyfit(x[:-1], y[:-1], 1)
    held = fit.held_out
    assert held is not None and held.architecture == "r152w3sk"
    assert held.predicted == pytest.approx(math.exp(np.polyval(line, x[-1])))
    assert held.truth == pytest.approx(0.251)
    assert not held.inside, "section 3.2: width has plateaued there, which a power law without floor cannot know"
    floor = fit_of(
        table_1(), label_fraction=0.01, law="power law with floor", method="Huber", family="selective kernels"
    )
    assert floor.held_out is not None and floor.held_out.inside


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_huber_fit_agrees_with_scipy(floor: float) -> None:
    rng = np.random.default_rng(3)
    x = np.log(np.geomspace(1e6, 1e9, 8))
    y = np.log(20 * np.exp(-0.25 * x) + floor) + rng.normal(0, 0.02, 8)
    y[3] += 0.4  # an outlier
    delta = huber_delta(y - log_error(least_squares(x, y), x))
    theta = huber(x, y[None], floor > 0, delta)[0]
    starts = [theta, [3.0, 0.25, math.log(0.1)][: len(theta)], [1.0, 0.1, math.log(0.01)][: len(theta)]]
    solved = [
        optimize.least_squares(
            lambda t: y - log_error(t, x), start, loss="huber", f_scale=delta, xtol=1e-12, ftol=1e-12, gtol=1e-12
        )
        for start in starts
    ]
    ours = optimize.least_squares(lambda t: y - log_error(t, x), theta, loss="huber", f_scale=delta, max_nfev=1).cost
    assert ours <= min(result.cost for result in solved) * (1 + 1e-5)


def test_exact_law_with_floor_is_recovered() -> None:
    law = {name: 300 * n**-0.5 + 0.05 for name, n in SIZES.items()}
    fit = fit_of(runs(law), "power law with floor", "Huber")
    assert (fit.exponent, fit.floor, fit.coefficient) == pytest.approx((0.5, 0.05, 300), rel=1e-2)
    assert all(abs(point.residual) < 1e-4 for point in fit.points)


def test_huber_is_less_moved_by_one_outlier_than_least_squares() -> None:
    sizes = {f"r{depth}": 10**7 * 2**i for i, depth in enumerate((10, 18, 26, 34, 50, 101, 152, 200))}
    wiggle = dict(zip(sizes, (0.004, -0.003, 0.002, -0.004, 0.003, -0.002, 0.004, -0.003), strict=True))
    errors = {name: 5 * n**-0.2 * (1 + wiggle[name]) for name, n in sizes.items()}
    errors["r200"] *= 0.8
    table = runs(errors, sizes)
    squares, robust = fit_of(table), fit_of(table, method="Huber")
    assert abs(robust.exponent - 0.2) < abs(squares.exponent - 0.2) / 2


def test_interval_over_architectures_covers_the_true_exponent() -> None:
    law = runs({name: 5 * n**-0.2 for name, n in SIZES.items()})
    noise = np.exp(np.random.default_rng(0).normal(0, 0.03, (60, len(law))))
    repeated = [
        law.assign(id=law["id"] + f"-{i}", label_fraction=i / 60, top1=1 - (1 - law["top1"]) * factors)
        for i, factors in enumerate(noise)
    ]
    found = [one for one in fits(pd.concat(repeated)) if isinstance(one, Fit) and one.method == "least squares"]
    covered = [fit.low <= 0.2 <= fit.high for fit in found]
    assert len(found) >= 50  # the others have a clear reversal by chance
    assert 0.88 <= np.mean(covered) <= 1.0  # 95 % of many; three standard errors are 8 %
    assert 0.05 < np.median([fit.high - fit.low for fit in found]) < 0.25


def test_a_floor_that_the_sizes_do_not_tell_is_refused() -> None:
    """A plain power law with noise: any floor trades with the exponent."""
    noise = dict(zip(SIZES, (0.02, -0.03, 0.015, 0.03, -0.03), strict=True))
    table = runs({name: 20 * n**-0.2 * math.exp(noise[name]) for name, n in SIZES.items()})
    refused = found(table, "power law with floor", "Huber")
    assert isinstance(refused, Refusal) and refused.reason.startswith("floor not identified")
    assert isinstance(found(table), Fit)
    for fit in fits(table_1()):
        if isinstance(fit, Fit) and fit.law == "power law with floor":
            assert fit.low > 0 and fit.high - fit.low <= 2 * fit.exponent and 0 < fit.floor_low < fit.floor


def test_step_is_fitted_without_overflow() -> None:
    fit = fit_of(runs(dict(zip(SIZES, (0.5, 0.2, 0.19, 0.19, 0.19), strict=True))), "power law with floor", "Huber")
    assert math.isfinite(fit.coefficient) and fit.floor == pytest.approx(0.19, abs=0.01)


def test_interval_over_seeds_follows_the_spread_of_seeds_alone() -> None:
    rng = np.random.default_rng(1)
    bend = {"r18": 0.008, "r34": -0.008, "r50": 0.008, "r101": -0.008, "r152": 0.008}  # architectures off the law
    errors = {
        name: (5 * n**-0.2 * (1 + bend[name]) * np.exp(rng.normal(0, 0.0005, 4))).tolist() for name, n in SIZES.items()
    }
    fit = fit_of(runs(errors))
    assert fit.seeds_low < fit.exponent < fit.seeds_high
    assert fit.seeds_high - fit.seeds_low < (fit.high - fit.low) / 5
    assert fit.basis == "5 architectures x 4 seeds"


def test_resampled_means_and_their_interval_are_those_of_students_t() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=8)
    draws = resampled_means([values], rng, 20_000)[:, 0]
    assert draws.std() == pytest.approx(values.std(ddof=1) / math.sqrt(8), rel=0.03)
    low, high = expanded_interval(values.mean(), draws, 7)
    expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.06)
    assert student(2.5) == pytest.approx(stats.t.ppf(0.975, 2.5))


def test_clearly_worse_bigger_model_is_flagged_and_left_out() -> None:
    errors: dict[str, float] = {name: 5 * n**-0.2 for name, n in SIZES.items()}
    errors["r101"] = errors["r50"] + 0.02
    fit = fit_of(runs({name: three_seeds(error) for name, error in errors.items()}))
    (flag,) = fit.flagged
    assert (flag.architecture, flag.better, flag.left_out) == ("r101", "r50", True)
    assert flag.ids == ("r101-s0", "r101-s1", "r101-s2")
    assert flag.by == pytest.approx(0.02)
    assert fit.exponent == pytest.approx(0.2) and len(fit.points) == 4
    single = fit_of(runs(errors))  # without a known spread it may be noise
    assert [flag.left_out for flag in single.flagged] == [False] and len(single.points) == 5


def test_leaving_out_models_does_not_make_a_law_of_noise() -> None:
    """Where size changes nothing, an exponent above 0 is found no more often than a 95 % interval allows."""
    rng = np.random.default_rng(0)
    sizes = {f"r{10 + index}": 10**7 * 2**index for index in range(8)}
    draws = [fit_of(runs(dict(zip(sizes, 0.3 + rng.normal(0, 0.01, 8), strict=True)), sizes)) for _ in range(60)]
    assert sum(fit.low > 0 for fit in draws) <= 6  # 1.5 expected


def test_reversal_inside_the_noise_is_flagged_and_kept() -> None:
    (flag,) = fit_of(table_1(), label_fraction=1.0).flagged
    assert (flag.architecture, flag.better, flag.left_out) == ("r50w2", "r152", False)
    assert flag.by == pytest.approx(0.002)
    rng = np.random.default_rng(0)
    errors = {name: (5 * n**-0.2 + rng.normal(0, 0.04, 3)).tolist() for name, n in SIZES.items()}
    errors["r152"] = [errors["r101"][0] - 0.05, errors["r101"][1] + 0.06, errors["r101"][2] + 0.05]
    assert not any(flag.left_out for flag in fit_of(runs(errors)).flagged if flag.architecture == "r152")


@pytest.mark.parametrize(
    ("errors", "sizes", "law", "reason"),
    [
        ({"r18": 0.5, "r34": 0.4, "r50": 0.3}, SIZES, "power law", "3 sizes; a power law needs 4"),
        ({"r18": 0.5}, SIZES, "power law", "1 size; a"),
        (
            {"r18": 0.5, "r34": 0.4, "r50": 0.3, "r101": 0.2},
            SIZES,
            "power law with floor",
            "4 sizes; a power law with floor needs 5",
        ),
        (
            {"r18": 0.5, "r34": 0.4, "r50": 0.3, "r101": 0.2},
            dict.fromkeys(SIZES, 10**6),
            "power law",
            "1 size; a power law needs 4",
        ),
        (
            {"r18": 0.5, "r34": 0.4, "r50": 0.3, "r101": 0.2},
            {"r18": 10**6, "r34": 11 * 10**5, "r50": 12 * 10**5, "r101": 15 * 10**5},
            "power law",
            "factor of 1.50 only",
        ),
        ({"r18": 0.5, "r34": 0.4, "r50": 0.3, "r101": 0.0}, SIZES, "power law", "r101 makes no error"),
        (
            {"r18": three_seeds(0.3), "r34": three_seeds(0.4), "r50": three_seeds(0.29), "r101": three_seeds(0.2)},
            SIZES,
            "power law",
            "3 sizes without r34, which a smaller model beats",
        ),
    ],
)
def test_refusals_name_their_reason(
    errors: Mapping[str, float | Sequence[float]], sizes: dict[str, int], law: Law, reason: str
) -> None:
    refusal = found(runs(errors, sizes), law, "Huber")
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason and refusal.need


def test_trials_without_a_top1_are_no_points_and_no_trials_no_fits() -> None:
    table = runs({name: 5 * n**-0.2 for name, n in SIZES.items()})
    table.loc[table["architecture"] == "r152", "top1"] = math.nan
    assert [point.architecture for point in fit_of(table).points] == ["r18", "r34", "r50", "r101"]
    assert fits(trials([])) == []


@pytest.mark.parametrize(
    ("label_fraction", "r", "slope"), [(0.01, 0.9988, 2.10), (0.1, 0.9969, 1.41), (1.0, 0.9878, 0.825)]
)
def test_linear_evaluation_foretells_fine_tuning_in_appendix_c(label_fraction: float, r: float, slope: float) -> None:
    table = table_1()
    points = linear_and_finetuned(table[table["width"] <= 2], label_fraction)
    found = correlation(points["linear"].tolist(), points["finetune"].tolist())
    assert found is not None and found.n == 12
    assert found.r == pytest.approx(r, abs=5e-5)
    assert found.slope == pytest.approx(slope, abs=5e-3)


def test_correlation_and_its_interval_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=9)
    y = 2 * x + rng.normal(size=9)
    ours, theirs = correlation(x.tolist(), y.tolist()), stats.pearsonr(x, y)
    interval = theirs.confidence_interval(0.95)
    line = stats.linregress(x, y)
    assert ours is not None
    assert (ours.r, ours.low, ours.high) == pytest.approx((theirs.statistic, interval.low, interval.high))
    assert (ours.slope, ours.intercept) == pytest.approx((line.slope, line.intercept))


def test_correlation_of_few_or_equal_points() -> None:
    assert correlation([1.0], [1.0]) is None and correlation([1.0, 1.0], [1.0, 2.0]) is None
    three = correlation([1.0, 2.0, 3.0], [1.0, 2.0, 2.5])
    assert three is not None and math.isnan(three.low)
