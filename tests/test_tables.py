"""Tables, label efficiency and the answer: every number against a slow computation of its own."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest
from scipy import stats

import synthetic
from reports.answer import answer
from reports.paper import table_1
from reports.records import Record
from reports.scaling import (
    labels_needed,
    size_gains,
    size_points,
    standard_error,
)
from reports.tables import best_points, group_by_data, history, summary, trials


def chain() -> list[Record]:
    """Pretraining -> fine-tuning -> self-distilled teacher -> small student."""
    return [
        synthetic.record("p", "pretrain", "r18", head_depth=3, temperature=0.1),
        synthetic.record("f", "finetune", "r18", parent="p", label_fraction=0.1, head_layer=1),
        synthetic.record("d", "distill", "r18", parent="f", temperature=0.1, label_fraction=None),
        synthetic.record("s", "distill", "r10w0.25", parent="d", temperature=1.0, label_fraction=None),
    ]


def finetuned(top1: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    """Table of fine-tuned trials; one seed for each accuracy in the lists."""
    return trials(
        [
            synthetic.record(
                f"{model}-{fraction:g}-{seed}", architecture=model, seed=seed, top1=value, label_fraction=fraction
            )
            for (model, fraction), values in top1.items()
            for seed, value in enumerate(values)
        ]
    )


def test_one_row_a_trial_with_its_own_values() -> None:
    row = trials(
        [synthetic.record("a", architecture="r50w2sk", seed=3, top1=0.5, label_fraction=0.1, head_layer=0)]
    ).iloc[0]
    assert (row["id"], row["stage"], row["architecture"], row["seed"]) == ("a", "finetune", "r50w2sk", 3)
    assert (row["depth"], row["width"], row["selective_kernels"]) == (50, 2.0, True)
    assert (row["label_fraction"], row["labels"], row["head_layer"]) == (0.1, 1000, 0)
    assert (row["top1"], row["top5"], row["loss"], row["workers"], row["device"]) == (0.5, 0.8, 1.5, 1, "cpu")
    assert pd.isna(row["temperature"]) and pd.isna(row["teacher_architecture"]) and pd.isna(row["head_depth"])


def test_students_inherit_through_all_their_teachers() -> None:
    rows = trials(chain()).set_index("id")
    assert rows.loc["f", "head_depth"] == 3
    student = rows.loc["s"]
    assert (student["label_fraction"], student["labels"], student["head_layer"], student["head_depth"]) == (
        0.1,
        1000,
        1,
        3,
    )
    assert (student["teacher_architecture"], student["temperature"]) == ("r18", 1.0)
    assert rows.isna().loc["p", ["label_fraction", "temperature", "head_layer", "teacher_architecture"]].all()


def test_own_label_fraction_wins_over_the_teachers() -> None:
    own = synthetic.record("own", "distill", parent="f", temperature=1.0, label_fraction=0.01)
    row = trials([*chain(), own]).set_index("id").loc["own"]
    assert (row["label_fraction"], row["labels"]) == (0.01, 100)


def test_missing_parent_is_a_gap() -> None:
    rows = trials([record for record in chain() if record.id in ("f", "s")]).set_index("id").isna()
    assert rows.loc["f", "head_depth"]
    assert rows.loc["s", ["label_fraction", "labels", "head_layer", "head_depth", "teacher_architecture"]].all()


def test_what_a_trial_inherits_from_its_pretraining_and_teacher() -> None:
    rows = trials(chain()).set_index("id")
    assert rows["pretrain_id"].tolist() == ["p"] * 4
    assert rows["memory"].tolist() == [False] * 4
    assert rows["teacher_stage"].fillna("").tolist() == ["", "", "finetune", "distill"]
    assert rows.loc["s", "teacher_top1"] == 0.5 and math.isnan(rows.loc["f", "teacher_top1"])
    assert rows["distill_images"].fillna("").tolist() == ["", "", "all", "all"]
    assert (rows.loc["p", "knn_top1"], rows.loc["p", "effective_rank"]) == (pytest.approx(0.45), 12.5)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({"size": 0, "decay": 0.0}, False),
        ({"size": 64, "decay": 0.0}, True),
        ({"size": 0, "decay": 0.99}, True),
        (None, pd.NA),
    ],
)
def test_memory_is_a_queue_or_a_momentum_encoder(memory: dict[str, float] | None, expected: object) -> None:
    pretraining = synthetic.record("p", "pretrain", memory=memory)
    row = trials([pretraining, synthetic.record("f", parent="p", label_fraction=0.1)]).iloc[1]
    assert row["memory"] is expected or row["memory"] == expected


def test_regularized_supervised_training() -> None:
    settings = [{}, {"label_smoothing": 0.1}, {"augmentation": {"auto_augment": "cifar10"}}, {"augmentation": {}}]
    records = [
        synthetic.record(f"s{i}", "supervised", label_fraction=0.1, **changes) for i, changes in enumerate(settings)
    ]
    table = trials([*records, synthetic.record("f", label_fraction=0.1)])
    assert table["regularized"].tolist() == [False, True, True, pd.NA, pd.NA]


def test_totals_add_up_all_ancestors() -> None:
    records = chain()
    rows = trials(records).set_index("id")
    flops = {record.id: record.cost.train_flops for record in records}
    assert rows.loc["s", "total_flops"] == pytest.approx(sum(flops.values()))
    assert rows.loc["f", "total_flops"] == pytest.approx(flops["p"] + flops["f"])
    assert rows.loc["p", "total_device_seconds"] == records[0].cost.device_seconds
    orphans = trials(records[1:]).set_index("id")
    assert orphans["total_flops"].isna().all() and orphans["total_device_seconds"].isna().all()


def test_parents_in_a_circle_do_not_hang() -> None:
    circle = [synthetic.record("a", parent="b", label_fraction=0.1), synthetic.record("b", parent="a")]
    assert len(trials(circle)) == 2


def test_mixed_protocols_and_data_are_refused() -> None:
    one, other = synthetic.plain("a"), synthetic.plain("b")
    other["spec"]["protocol"] = 2
    with pytest.raises(ValueError, match="protocol 1 and protocol 2"):
        trials([Record.model_validate(one), Record.model_validate(other)])
    other = synthetic.plain("b")
    other["data"]["fingerprint"] = "changed"
    records = [Record.model_validate(plain) for plain in (one, other, synthetic.plain("c"))]
    with pytest.raises(ValueError, match="d1g175f00d and data fingerprint changed"):
        trials(records)
    assert [[record.id for record in group] for group in group_by_data(records)] == [["a", "c"], ["b"]]


def test_no_records_make_an_empty_table() -> None:
    assert trials([]).empty
    assert history([], "pretrain").empty
    assert size_gains(size_points(trials([]))).empty


def test_summary_over_seeds() -> None:
    values = [0.50, 0.56, 0.53]
    table = summary(finetuned({("r18", 0.1): values, ("r18", 1.0): [0.7]}), ["architecture", "label_fraction"])
    several, single = table.iloc[0], table.iloc[1]
    assert several["mean"] == pytest.approx(statistics.mean(values))
    assert several["std"] == pytest.approx(statistics.stdev(values))
    assert (several["n"], several["seeds"], several["single_seed"]) == (3, [0, 1, 2], False)
    assert several["ids"] == ["r18-0.1-0", "r18-0.1-1", "r18-0.1-2"]
    assert (single["n"], single["single_seed"]) == (1, True) and math.isnan(single["std"])


def test_summary_keeps_trials_with_their_group() -> None:
    known = [
        synthetic.record("f", architecture="r34", label_fraction=0.1),
        *(
            synthetic.record(f"{parent}-{seed}", "distill", parent=parent, seed=seed, top1=top1, temperature=1.0)
            for parent, seed, top1 in [("gone", 1, 0.4), ("f", 1, 0.6), ("gone", 0, 0.2), ("f", 0, 0.8)]
        ),
    ]
    table = summary(trials(known).query("stage == 'distill'"), ["teacher_architecture"])
    found = {tuple(row["ids"]): (row["mean"], row["seeds"]) for row in table.to_dict("records")}
    assert found == {
        ("f-1", "f-0"): (pytest.approx(0.7), [0, 1]),
        ("gone-1", "gone-0"): (pytest.approx(0.3), [0, 1]),
    }


def test_different_settings_are_never_averaged() -> None:
    records = [
        synthetic.record(f"{layer}-{seed}", seed=seed, top1=top1, label_fraction=0.1, head_layer=layer)
        for layer, seed, top1 in [(0, 0, 0.5), (0, 1, 0.5), (1, 0, 0.6), (1, 1, 0.7)]
    ]
    table = summary(trials(records), ["architecture"])
    assert sorted(round(mean, 6) for mean in table["mean"]) == [0.5, 0.65]
    best = best_points(trials(records), "finetune", ["architecture"]).iloc[0]
    assert (best["mean"], best["variants"], best["head_layer"]) == (pytest.approx(0.65), 2, 1)


def test_seeds_of_parents_are_seeds_too_but_their_settings_are_not() -> None:
    def pair(name: str, seed: int, head_depth: int) -> list[Record]:
        return [
            synthetic.record(f"p{name}", "pretrain", seed=seed, head_depth=head_depth),
            synthetic.record(f"f{name}", seed=seed, parent=f"p{name}", label_fraction=0.1),
        ]

    table = trials([*pair("a", 0, 3), *pair("b", 1, 3), *pair("c", 2, 4)])
    variant = dict(zip(table["id"], table["variant"], strict=True))
    assert variant["fa"] == variant["fb"] != variant["fc"]


def test_one_lucky_seed_does_not_beat_several() -> None:
    records = [
        synthetic.record(f"{layer}-{seed}", seed=seed, top1=top1, label_fraction=0.1, head_layer=layer)
        for layer, seed, top1 in [(0, 0, 0.9), (1, 0, 0.6), (1, 1, 0.6), (1, 2, 0.6)]
    ]
    assert best_points(trials(records), "finetune", ["architecture"])["head_layer"].tolist() == [1]


def test_history_is_one_row_a_step() -> None:
    records = [synthetic.record("p", "pretrain"), synthetic.record("f")]
    table = history(records, "pretrain")
    assert table["id"].unique().tolist() == ["p"]
    assert table["step"].tolist() == list(range(0, 1001, 50))


@pytest.mark.parametrize(
    ("target", "labels", "bound"),
    [
        (0.5, 10, "about"),
        (0.6, 10**1.5, "about"),
        (0.75, 10**2.5, "about"),
        (0.4, 10, "at most"),
        (0.9, 1000, "more than"),
    ],
)
def test_labels_needed(target: float, labels: float, bound: str) -> None:
    needed = labels_needed([100, 10, 1000], [0.7, 0.5, 0.8], target)
    assert needed.labels == pytest.approx(labels)
    assert (str(needed.bound), needed.rises) == (bound, True)


def test_labels_needed_where_accuracy_falls() -> None:
    needed = labels_needed([10, 100, 1000, 10000], [0.5, 0.7, 0.6, 0.8], 0.65)
    assert needed.labels == pytest.approx(10 ** (1 + 0.75))
    assert not needed.rises
    assert labels_needed([10], [0.5], 0.6).bound == "more than"


def test_label_efficiency_of_the_papers_models() -> None:
    points = size_points(table_1())
    small = points[points["architecture"] == "r50"]
    large = points[points["architecture"] == "r152w2"].sort_values("label_fraction")
    few, many, _ = (labels_needed(small["labels"].tolist(), small["mean"].tolist(), mean) for mean in large["mean"])
    assert few.labels / 12811 == pytest.approx(16.9, abs=0.05)
    assert (many.labels, many.bound) == (1281167, "more than")


def test_size_gains_and_their_errors() -> None:
    small, large = [0.50, 0.52], [0.60, 0.64, 0.65]
    gains = size_gains(size_points(finetuned({("r10w0.25", 0.1): small, ("r18", 0.1): large, ("r18", 1.0): [0.9]})))
    assert len(gains) == 1
    row = gains.iloc[0]
    variances = [statistics.variance(small) / 2, statistics.variance(large) / 3]
    assert row["gain"] == pytest.approx(statistics.mean(large) - statistics.mean(small))
    assert row["error"] == pytest.approx(math.sqrt(sum(variances)))
    assert (row["small"], row["large"]) == ("r10w0.25", "r18")


def test_standard_error_has_welchs_degrees_of_freedom_and_a_single_value_none() -> None:
    small, large = [0.50, 0.52], [0.60, 0.64, 0.65]
    welch = stats.ttest_ind(large, small, equal_var=False)
    error, freedom = standard_error([statistics.stdev(small), statistics.stdev(large)], [2, 3])
    assert freedom == pytest.approx(welch.df)
    assert error == pytest.approx((statistics.mean(large) - statistics.mean(small)) / welch.statistic)
    assert math.isnan(standard_error([0.1, math.nan], [2, 1])[0])


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        ([0.60, 0.61, 0.62], [0.80, 0.81, 0.82], "helped more"),
        ([0.50, 0.51, 0.52], [0.95, 0.96, 0.97], "did not help more"),
        ([0.55, 0.62, 0.66], [0.90, 0.91, 0.92], "do not settle"),
        ([0.60], [0.80], "do not settle"),
    ],
)
def test_answer_says_whether_size_helps_more_with_few_labels(few: list[float], many: list[float], verdict: str) -> None:
    base = {("r10w0.25", 0.01): [0.40, 0.41, 0.42], ("r10w0.25", 1.0): [0.70, 0.71, 0.72]}
    assert verdict in answer(finetuned({**base, ("r18", 0.01): few, ("r18", 1.0): many}))[1]


def test_answer_states_label_efficiency_and_seeds() -> None:
    table = finetuned(
        {
            ("r10w0.25", 0.01): [0.40, 0.42],
            ("r10w0.25", 0.1): [0.60, 0.62],
            ("r18", 0.01): [0.50, 0.52],
            ("r18", 0.1): [0.65, 0.67],
        }
    )
    text = " ".join(answer(table)).replace("\u00a0", " ")
    assert "with 1 % of the labels (100)" in text
    assert "51.0 ± 1.4 %" in text and "41.0 ± 1.4 %" in text
    assert "about 3.16 times as many labels" in text
    assert "+10.0 ± 1.4 points with 1 % and +5.0 ± 1.4 points with 10 %" in text
    assert "do not settle" in text and "means over 2 seeds" in text


def test_answer_is_censored_where_the_small_model_never_gets_there() -> None:
    table = finetuned(
        {("r10w0.25", 0.01): [0.4], ("r10w0.25", 0.1): [0.45], ("r18", 0.01): [0.5], ("r18", 0.1): [0.55]}
    )
    text = " ".join(answer(table)).replace("\u00a0", " ")
    assert "more than 10 times as many labels" in text
    assert "single seed" in text and "do not settle" in text
    assert "±" not in text


def test_answer_where_bigger_is_worse() -> None:
    text = answer(finetuned({("r10w0.25", 0.01): [0.6], ("r18", 0.01): [0.5]}))[0]
    assert "not better" in text and "times as many" not in text


def test_answer_without_a_comparison() -> None:
    assert "No fine-tuned trial" in answer(trials([]))[0]
    assert "second architecture" in answer(finetuned({("r18", 0.01): [0.5]}))[0]
