"""The scoreboard: planted effects are found, intervals are those of Student, and there is no verdict from one seed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import planted
from reports.claims import Claim, claims, judge
from reports.effects import estimate
from reports.paper import table, table_1
from reports.statements import statements
from reports.tables import trials
from synthetic import record


def board(of: pd.DataFrame) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims(of)}


def claim_of(of: pd.DataFrame, name: str) -> Claim:
    return judge(of, next(one for one in statements(of) if one.name == name))


@cache
def planted_board() -> dict[str, Claim]:
    return board(trials(planted.study()))


def cells(values: dict[str, Sequence[float]], sizes: dict[str, int] | None = None) -> pd.DataFrame:
    sizes = sizes or dict.fromkeys(values, 10**6)
    return pd.DataFrame(
        [
            {"architecture": name, "parameters": sizes[name], "seed": seed, "value": value}
            for name, seeds in values.items()
            for seed, value in enumerate(seeds)
        ]
    )


def pairs(gains: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Fine-tuned from head layers 0 and 1 on 1 % of the labels: the gain of layer 1 of each seed, in points."""
    return trials(
        [
            record(f"ft-{name}-h{layer}-s{seed}", "finetune", name, seed, None, 0.5 + layer * gain / 100, **settings)
            for name, seeds in gains.items()
            for seed, gain in enumerate(seeds)
            for layer in (0, 1)
            for settings in [{"label_fraction": 0.01, "head_layer": layer, "head_depth": 3}]
        ]
    )


ARCHITECTURES = list(planted.SIZES)
SMALL = [name for name in ARCHITECTURES if name != planted.BIGGEST]
OVER_SUPERVISED = [
    100 * (planted.finetuned(name, 0.01) + 0.03 - planted.supervised(name, 0.01)) for name in ARCHITECTURES
]
LINEAR = [planted.linear(name) for name in ARCHITECTURES]
FEW_LESS_MOST = [planted.finetuned(name, 0.01) - planted.finetuned(name, 1.0) for name in ARCHITECTURES]
SIZE = [planted.tenfold(name) for name in ARCHITECTURES]


@pytest.mark.parametrize(
    ("name", "effect", "verdict"),
    [
        ("bigger-gains-more-with-fewer-labels", 5.0, "holds"),
        *(
            (
                f"bigger-is-better-{100 * fraction:g}pct",
                100 * np.polyfit(SIZE, [planted.finetuned(name, fraction) for name in ARCHITECTURES], 1)[0],
                "holds",
            )
            for fraction in planted.SLOPES
        ),
        ("size-matters-less-for-supervised", 6.0, "holds"),
        ("selective-kernels", 2.0, "holds"),
        ("finetuned-beats-supervised", np.mean(OVER_SUPERVISED), "holds"),
        ("deeper-head", 2.0, "holds"),
        ("first-layer-few-labels", 2.5, "holds"),  # 3 with three layers, 2 with two
        ("first-layer-all-labels", 0.0, "holds"),
        ("memory", 1.0, "holds"),
        ("distillation-small-student", 4.2, "holds"),
        ("self-distillation", 1.0, "holds"),
        ("bigger-teacher", 3.2, "holds"),
        ("labels-in-the-loss", -0.5, "holds"),
        ("unlabelled-images", 20.0, "holds"),
        ("temperatures-alike", 0.2, "holds"),
        ("temperature-2-worse", 3.0, "holds"),
        ("better-teacher", 1.0, "holds"),
        ("student-beats-full-supervision", 57.2 - 62.0, "does not hold"),
        ("linear-slope-falls", np.polyfit(LINEAR, FEW_LESS_MOST, 1)[0], "holds"),
    ],
)
def test_planted_effects_are_found(name: str, effect: float, verdict: str) -> None:
    claim = planted_board()[name]
    assert claim.effect == pytest.approx(effect, abs=0.15)
    assert claim.verdict == verdict and not claim.need
    assert claim.low <= claim.effect <= claim.high
    assert claim.low - 0.15 <= effect <= claim.high + 0.15


def test_correlations_are_over_architectures() -> None:
    for fraction in planted.SLOPES:
        claim = planted_board()[f"linear-correlates-{100 * fraction:g}pct"]
        x = [planted.linear(name) for name in ARCHITECTURES]
        y = [planted.finetuned(name, fraction) for name in ARCHITECTURES]
        assert claim.effect == pytest.approx(np.corrcoef(x, y)[0, 1], abs=0.02)
        assert claim.verdict == "holds" and claim.basis == "6 points, means over seeds"


def test_trials_behind_a_claim_and_its_basis_are_named() -> None:
    claim = planted_board()["self-distillation"]
    assert claim.basis == "3 seeds x 6 architectures"
    students = {f"distill-{name}-self-0.01-s{seed}" for name in ARCHITECTURES for seed in range(3)}
    teachers = {f"finetune-{name}-d3m1-0.01-h1-s{seed}" for name in ARCHITECTURES for seed in range(3)}
    assert set(claim.ids) == students | teachers
    assert claim.where == "Figure 6" and "1\N{NO-BREAK SPACE}%" in claim.detail


def test_no_verdict_from_one_seed() -> None:
    for claim in claims(trials(planted.study(seeds=1))):
        assert claim.verdict == "not enough data" and claim.need
        if claim.unit == "points" and claim.ids:
            assert math.isnan(claim.low) and "1 seed x" in claim.basis and claim.need == "a second seed"


def test_without_trials_every_claim_says_what_would_try_it() -> None:
    for claim in claims(trials([])):
        assert claim.verdict == "not enough data" and "study/presets/imagenet-" in claim.need and not claim.ids


def test_verdicts_on_the_papers_numbers_are_over_architectures() -> None:
    found = board(table())
    for name in ("bigger-gains-more-with-fewer-labels", "size-matters-less-for-supervised", "selective-kernels"):
        assert found[name].verdict == "holds" and "over architectures only" in found[name].basis
    assert "12 points" in found["linear-correlates-1pct"].basis
    assert found["linear-correlates-1pct"].effect == pytest.approx(0.9988, abs=5e-5)
    for name in ("unlabelled-images", "self-distillation", "student-beats-full-supervision"):
        assert found[name].verdict == "not enough data" and "no seeds are known" in found[name].need
    assert found["unlabelled-images"].effect == pytest.approx(69.0 - 23.6)
    assert found["student-beats-full-supervision"].effect == pytest.approx(77.5 - 76.6)


def test_size_effects_of_the_paper_are_slopes_with_their_standard_errors() -> None:
    top1 = table_1().pivot_table(index="architecture", columns=["stage", "label_fraction"], values="top1")
    size = table_1().drop_duplicates("architecture").set_index("architecture")["parameters"].astype(float)
    gain = 100 * (top1[("finetune", 0.01)] - top1[("finetune", 1.0)])
    line = stats.linregress(np.log10(size[gain.index]), gain)
    half = stats.t.ppf(0.975, 11) * line.stderr
    claim = claim_of(table_1(), "bigger-gains-more-with-fewer-labels")
    assert (claim.effect, claim.low, claim.high) == pytest.approx((line.slope, line.slope - half, line.slope + half))


def test_study_without_linear_evaluation_says_so_of_its_slope() -> None:
    tuned = [record(f"{name}-{share}", "finetune", name, label_fraction=share) for name in SMALL for share in (0.1, 1)]
    claim = claim_of(trials(tuned), "linear-slope-falls")
    assert (claim.verdict, claim.ids) == ("not enough data", ())


def test_slope_over_linear_evaluation_falls_with_labels_in_the_paper() -> None:
    """Appendix C: slopes of 2.10 and 0.82 over the twelve models of widths 1 and 2."""
    claim = claim_of(table(), "linear-slope-falls")
    assert claim.effect == pytest.approx(2.10 - 0.82, abs=0.01) and claim.verdict == "holds"
    assert "12 architectures" in claim.basis


@pytest.mark.parametrize(("noise", "verdict"), [(0.03, "holds"), (0.0005, "not enough data")])
def test_correlation_from_the_middle_against_that_from_the_output(noise: float, verdict: str) -> None:
    rng, records = np.random.default_rng(0), []
    for number in range(24):
        name, x = f"r{number + 10}", 0.4 + 0.01 * number
        off = rng.normal(0, noise)
        for seed in range(2):
            base = record(f"p-{name}-{seed}", "pretrain", name, seed, head_depth=3)
            linear = record(f"l-{name}-{seed}", "linear", name, seed, base.id, x, label_fraction=1.0)
            records += [base, linear]
            for layer, top1 in ((0, x + off), (1, x + 0.0005 * (-1) ** number)):
                settings = {"label_fraction": 0.01, "head_layer": layer}
                records.append(record(f"f-{name}-{layer}-{seed}", "finetune", name, seed, base.id, top1, **settings))
    claim = claim_of(trials(records), "linear-correlates-more-from-the-middle")
    accuracies: dict[object, list[float]] = {}
    for one in records:
        key = one.spec.settings.get("head_layer", one.spec.stage)
        accuracies.setdefault(key, []).append(one.metrics["top1"])
    output, middle = (np.corrcoef(accuracies["linear"], accuracies[layer])[0, 1] for layer in (0, 1))
    assert claim.effect == pytest.approx(np.arctanh(middle) - np.arctanh(output), abs=1e-6)
    assert claim.verdict == verdict


BROKEN = re.compile(r"(?<![.\d])1 (points|sizes|architectures)\b|, \(|points teachers|points r\d|parameters gain")


def test_sentences_of_claims_are_whole() -> None:
    found = [*claims(table()), *claims(trials(planted.study(seeds=1)))]
    assert not [text for claim in found for text in (claim.detail, claim.need) if BROKEN.search(text)]
    small = claim_of(table(), "student-beats-full-supervision")
    assert small.need.startswith("seeds of this one architecture") and small.detail.startswith("+0.9 points for r50")


def test_contradicted_and_undecided_read_differently() -> None:
    against = claim_of(pairs({"r18": [-2.0, -2.2, -1.8], "r50": [-2.1, -1.9, -2.0]}), "first-layer-few-labels")
    assert against.verdict == "does not hold" and "contradicts" in against.detail and not against.need
    unclear = claim_of(pairs({"r18": [-1.0, 2.0, 0.5], "r50": [1.5, -0.8, 0.4]}), "first-layer-few-labels")
    assert unclear.verdict == "not enough data"
    assert unclear.detail.startswith("undecided") and unclear.detail.endswith("spans zero")
    assert "seeds at the present spread" in unclear.need


def test_seeds_that_would_settle_it_do() -> None:
    """With the same mean and spread, the number of seeds that is asked for is enough, and one less is not."""
    claim = claim_of(pairs({"r18": [-1.0, 3.0, 1.0]}), "first-layer-few-labels")
    needed = int(claim.need.split()[1])
    for seeds, settled in ((needed, True), (needed - 1, False)):
        z = np.linspace(-1, 1, seeds)
        values = 1.0 + 2.0 * z / z.std(ddof=1)  # mean 1 and standard deviation 2, as in the three above
        verdict = claim_of(pairs({"r18": values.tolist()}), "first-layer-few-labels").verdict
        assert (verdict == "holds") is settled


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.0, "holds"), (1.0, "not enough data"), (4.0, "does not hold"), (-4.0, "does not hold")]
)
def test_alike_means_within_one_point(gain: float, verdict: str) -> None:
    records = [
        record(f"d-{name}-{tau}-s{seed}", "distill", name, seed, None, top1 / 100, **settings)
        for name, seed, tau in ((n, s, t) for n in ("r18", "r50") for s in range(3) for t in (0.1, 1.0))
        for top1 in [70 + (gain + 0.2 * seed - 0.2) * (tau == 0.1)]
        for settings in [{"label_fraction": 0.01, "temperature": tau, "distillation_weight": 1.0, "images": "all"}]
    ]
    assert claim_of(trials(records), "temperatures-alike").verdict == verdict


def test_effect_of_one_architecture_is_the_paired_t_interval() -> None:
    values = [1.0, 2.5, 0.5, 1.7]
    effect = estimate(cells({"r18": values}), "mean")
    assert effect is not None and effect.limited_by == "seeds"
    assert (effect.low, effect.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), stats.sem(values)))


def test_architectures_that_differ_count_as_one_value_each() -> None:
    values = {"a": [5.0, 5.1], "b": [1.0, 0.9], "c": [3.0, 3.1], "d": [7.0, 6.9]}
    means = [np.mean(seeds) for seeds in values.values()]
    effect = estimate(cells(values), "mean")
    assert effect is not None and (effect.limited_by, effect.freedom) == ("architectures", 3)
    assert (effect.low, effect.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(means), stats.sem(means)))


def test_architectures_that_agree_share_the_spread_of_their_seeds() -> None:
    values = {"a": [1.0, 3.0, 2.0], "b": [2.1, 1.1, 2.9], "c": [2.9, 2.2, 1.0]}
    effect = estimate(cells(values), "mean")
    pooled = math.sqrt(np.mean([np.var(seeds, ddof=1) for seeds in values.values()]) / 9)
    assert effect is not None and (effect.limited_by, effect.freedom) == ("seeds", 6)
    assert effect.high - effect.value == pytest.approx(stats.t.ppf(0.975, 6) * pooled)


def test_selective_kernels_are_the_third_coefficient_of_a_plane() -> None:
    sizes = {"a": 10**7, "b": 3 * 10**7, "c": 10**8, "d": 2 * 10**7, "e": 5 * 10**7, "f": 2 * 10**8}
    sk = {name: float(name in "def") for name in sizes}
    noise = dict(zip(sizes, (0.1, -0.2, 0.05, 0.1, -0.15, 0.1), strict=True))
    values = {name: [10 * math.log10(n) + 3 * sk[name] + noise[name]] for name, n in sizes.items()}
    table = cells(values, sizes)
    effect = estimate(table.assign(selective_kernels=table["architecture"].map(sk)), "kernels")
    X = np.column_stack([np.ones(6), np.log10(list(sizes.values())), list(sk.values())])
    y = np.array([values[name][0] for name in sizes])
    beta, (rss,), *_ = np.linalg.lstsq(X, y, rcond=None)
    half = stats.t.ppf(0.975, 3) * math.sqrt(rss / 3 * np.linalg.inv(X.T @ X)[2, 2])
    assert effect is not None
    assert (effect.value, effect.low, effect.high) == pytest.approx((beta[2], beta[2] - half, beta[2] + half))


@pytest.mark.parametrize("between", [0.0, 0.5, 2.0])
def test_intervals_cover_the_true_effect(between: float) -> None:
    rng, hits, repetitions = np.random.default_rng(0), 0, 300
    frame = cells({name: [0.0] * 3 for name in "abcd"})
    for _ in range(repetitions):
        drawn = 1.0 + between * rng.normal(size=(4, 1)) + rng.normal(size=(4, 3))
        effect = estimate(frame.assign(value=drawn.ravel()), "mean")
        assert effect is not None
        hits += effect.low <= 1.0 <= effect.high
    assert 0.92 <= hits / repetitions <= 1.0


def test_effects_that_no_data_can_tell() -> None:
    assert estimate(cells({"a": [1.0]}), "mean") is None
    assert estimate(cells({"a": [1.0, 2.0], "b": [2.0, 3.0]}), "size") is None  # of equal size
    assert estimate(cells({"a": [1.0, 2.0]}), "size") is None


@pytest.mark.parametrize("name", ["finetuned-beats-supervised", "memory"])
def test_the_side_with_more_settings_does_not_win_by_luck(name: str) -> None:
    """Where nothing changes anything, the best of many settings is no better than the only one."""
    of, rng = trials(planted.study()), np.random.default_rng(0)
    found = [claim_of(of.assign(top1=0.6 + rng.normal(0, 0.01, len(of))), name) for _ in range(30)]
    assert sum(claim.low > 0 for claim in found) <= 3, "2.5 % of 30 is less than one"
    assert abs(np.mean([claim.effect for claim in found])) < 0.15
