"""The study's answer in about three sentences, computed from the trials: nothing that the data does not hold."""

from __future__ import annotations

import math

import pandas as pd

from reports.claims import judge
from reports.comparable import joined
from reports.figures.style import STAGES, accuracy, amount, percent, points_of
from reports.scaling import labels_needed, size_gains, size_points
from reports.statements import BIGGER_GAINS_MORE
from reports.tables import best_points


def answer(trials: pd.DataFrame) -> list[str]:
    """Sentences on label efficiency, on what size gains at each label fraction, on the methods, and on the seeds
    behind."""
    points = size_points(trials)
    if points.empty:
        return ["No fine-tuned trial has finished yet, so there is no answer: run the stages pretrain and finetune."]
    gains = size_gains(points)
    first = _label_efficiency(points, gains) if len(gains) else _one_size(points)
    caveat = _caveat(points)
    sentences = [first, _gain_by_fraction(trials, gains), caveat, _methods(trials, points), _seeds(trials, points)]
    return [sentence for sentence in sentences if sentence]


def _caveat(points: pd.DataFrame) -> str:
    """That models, or label fractions, were not compared at their best or at the same settings."""
    caveat = joined(points["caveat"])
    if not caveat:
        return ""
    apart = "; so a difference between models is not one of size alone" if points["apart"].any() else ""
    return f"Of fine-tuning, {caveat}{apart}."


def _one_size(points: pd.DataFrame) -> str:
    point = points.sort_values("label_fraction").iloc[0]
    return (
        f"Fine-tuned with {_labels(point)}, {_model(point)} reaches {accuracy(point['mean'], point['std'])} top-1; "
        "a second architecture at the same label fraction is needed to say what size does."
    )


def _label_efficiency(points: pd.DataFrame, gains: pd.DataFrame) -> str:
    """The biggest model with the fewest labels, and the labels that the smallest would need to equal it."""
    few = gains.iloc[0]
    at_few = points[points["label_fraction"] == few["label_fraction"]].set_index("architecture")
    curve = points[points["architecture"] == few["small"]]
    large = at_few.loc[few["large"]]
    start = (
        f"Fine-tuned with {_labels(large)}, the largest model, {few['large']} "
        f"({amount(large['parameters'])} parameters), reaches {accuracy(large['mean'], large['std'])} top-1; "
        f"the smallest, {few['small']}, reaches {accuracy(few['low'], at_few.loc[few['small']]['std'])}"
    )
    if few["gain"] <= 0:
        return f"{start}: a larger model is not better here with few labels."
    needed = labels_needed(curve["labels"].tolist(), curve["mean"].tolist(), few["high"])
    most = curve.sort_values("labels").iloc[-1]
    if needed.bound == "more than":
        reach = "" if len(curve) > 1 else ", the only number of labels it was trained with"
        factor = most["labels"] / large["labels"]
        tail = f"more than {factor:.3g} times as many labels" if factor > 1 else "more labels than that"
        return f"{start} and would need {tail} to equal it: it does not get there with {_labels(most)}{reach}."
    times = f"{needed.bound} {needed.labels / large['labels']:.3g} times"
    tail = f"{start} and would need {times} as many labels to equal it"
    steady = "" if needed.rises else "; its accuracy does not rise steadily with labels, so that is the first crossing"
    return f"{tail} (interpolated between the label fractions tried, in log labels{steady})."


def _gain_by_fraction(trials: pd.DataFrame, gains: pd.DataFrame) -> str:
    """What size gains at the fewest and at the most labels, and whether that difference is more than noise: the verdict
    on the paper's claim, which is over all sizes."""
    if len(gains) < 2:
        return ""
    parts = [_change(row) for _, row in gains.iloc[[0, -1]].iterrows()]
    verdict = {
        "holds": "and over all sizes it helped more where labels were fewer",
        "does not hold": "and over all sizes it did not help more where labels were fewer",
        "not enough data": "a difference that these results do not settle",
    }[judge(trials, BIGGER_GAINS_MORE).verdict]
    sizes = f"from {gains.iloc[0]['small']} to {gains.iloc[0]['large']}"
    return f"Size, {sizes}, changes top-1 by {parts[0]} and {parts[1]} of the labels, {verdict}."


def _change(row: pd.Series) -> str:
    error = "" if math.isnan(row["error"]) else f"\u00a0±\u00a0{100 * row['error']:.1f}"
    return f"{points_of(row['gain'])}{error} points with {percent(row['label_fraction'])}"


def _methods(trials: pd.DataFrame, points: pd.DataFrame) -> str:
    """Every stage that the smallest model went through with the fewest labels."""
    smallest = points.sort_values(["parameters", "label_fraction"]).iloc[0]
    model, fraction = smallest["architecture"], smallest["label_fraction"]
    here = trials[(trials["architecture"] == model) & (trials["label_fraction"] == fraction)]
    found = {}
    for stage in ("supervised", "linear", "finetune", "distill"):
        best = best_points(here, stage, ["architecture", "label_fraction"])
        if len(best):
            found[stage] = best.iloc[0]
    if len(found) < 2:
        return ""
    parts = [f"{accuracy(best['mean'], best['std'])} {_method(best)}" for best in found.values()]
    return f"With {percent(fraction)} of the labels {model} reaches {', '.join(parts[:-1])} and {parts[-1]}."


def _seeds(trials: pd.DataFrame, points: pd.DataFrame) -> str:
    if (trials["source"] == "paper").all():
        return "The paper states neither seeds nor spreads, so intervals are over architectures alone."
    fewest, most = points["n"].min(), points["n"].max()
    if most == 1:
        return "Every number is from a single seed, so no spread is known: run more before believing a difference."
    number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    hollow = " A number without ± is from a single seed." if fewest == 1 else ""
    return f"Numbers are means over {number} seeds ± one standard deviation (differences: standard error).{hollow}"


def _method(best: pd.Series) -> str:
    teacher = best["teacher_architecture"]
    if best["stage"] == "linear":
        return "in linear evaluation"
    if pd.isna(teacher):
        return STAGES[best["stage"]]
    return "self-distilled" if teacher == best["architecture"] else f"distilled from {teacher}"


def _labels(point: pd.Series) -> str:
    return f"{percent(point['label_fraction'])} of the labels ({point['labels']:,})"


def _model(point: pd.Series) -> str:
    return f"{point['architecture']} ({amount(point['parameters'])} parameters)"
