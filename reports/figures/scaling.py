"""Accuracy against model size, and what size gains, for each label fraction (the paper's Figures 1, 4, A.1, B.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import WHOLE, of_labels, panels
from reports.figures.points import fraction_styles, on_imagenet, reference_layer, size_axis
from reports.figures.style import empty_figure, percent, points_of
from reports.scaling import has_selective_kernels, size_gains, size_points

NEED = "It needs the stage finetune over two or more values of `architecture`."
PRESET = "imagenet-table1"
RELATIVE = "relative improvement in top-1 (%)"
PLAIN, SELECTIVE = "without selective kernels", "with selective kernels"
SUPERVISED, REGULARIZED, FINETUNED = "supervised", "supervised, regularized", "fine-tuned after pretraining"
ENLARGED = "fine-tuned, enlarged"


def relative_improvement(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure 1: relative improvement of fine-tuned top-1 over the smallest model against encoder parameters (log).

    One line a label fraction; selective kernels apart, dashed. Error bars are one standard deviation of the ratio, to
    first order, from those of both models.
    """

    def lines_of(table: pd.DataFrame) -> pd.DataFrame:
        return _relative(size_points(table), fraction_styles(table)).assign(panel=WHOLE)

    lines, paper = lines_of(trials), lines_of(reference_layer(trials, reference))
    if lines.empty:
        return empty_figure("Relative improvement with model size", NEED, PRESET)
    title = _relative_title(size_gains(size_points(trials)))
    return _panels_by_size(lines, paper, trials, order=[WHOLE], title=title, y_title=RELATIVE)


def relative_improvement_by_method(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure A.1: the same for supervised training, plain and regularized, beside fine-tuning."""

    def lines_of(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat(
            _relative(size_points(rows, stage), fraction_styles(table)).assign(panel=panel)
            for panel, (stage, rows) in _methods(table).items()
        )

    lines, paper = lines_of(trials), lines_of(reference_layer(trials, reference))
    title = "Relative improvement with model size, by method"
    if lines["panel"].nunique() < 2:
        need = "It needs the stages finetune and supervised over two or more values of `architecture`."
        return empty_figure(title, need, PRESET)
    order = [SUPERVISED, REGULARIZED, FINETUNED]
    return _panels_by_size(lines, paper, trials, order=order, title=title, room=0.3, y_title=RELATIVE)


def accuracy_against_parameters(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure B.1: fine-tuned top-1 against encoder parameters (log), one line a label fraction, one panel without and
    one with selective kernels.

    The title states what the data says: the gain of the biggest over the smallest model, with the fewest and most
    labels.
    """

    def lines_of(table: pd.DataFrame) -> pd.DataFrame:
        lines = _by_size(size_points(table), fraction_styles(table))
        return lines.assign(panel=lines["dash"].map({0: PLAIN, 1: SELECTIVE}), dash=0)

    lines, paper = lines_of(trials), lines_of(reference_layer(trials, reference))
    if lines.empty:
        return empty_figure("Accuracy of fine-tuned models by size", NEED, PRESET)
    if set(lines["panel"]) == {PLAIN}:
        lines, paper = lines.assign(panel=WHOLE), paper[paper["panel"] == PLAIN].assign(panel=WHOLE)
    order = [panel for panel in (WHOLE, PLAIN, SELECTIVE) if (lines["panel"] == panel).any()]
    title = scaling_title(size_gains(size_points(trials)))
    return _panels_by_size(lines, paper, trials, order=order, title=title, room=0.11 * len(order))


def supervised_and_finetuned(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure 4: top-1 of supervised training and of fine-tuning after pretraining against encoder parameters (log).

    One line a label fraction, models without selective kernels only, as in the paper. Of supervised trainings that
    differ in regularization the better one stands.
    """

    def lines_of(table: pd.DataFrame) -> pd.DataFrame:
        kept = table[~table["selective_kernels"].fillna(False)]
        stages = {SUPERVISED: "supervised", FINETUNED: "finetune", ENLARGED: "finetune"}
        return pd.concat(
            _by_size(size_points(kept, stage), fraction_styles(table)).assign(panel=panel)
            for panel, stage in stages.items()
        )

    lines, paper = lines_of(trials), lines_of(reference_layer(trials, reference))
    title = "Supervised training and fine-tuning after pretraining"
    if lines["panel"].nunique() < 3:
        return empty_figure(title, "It needs the stages finetune and supervised without selective kernels.", PRESET)
    order = [SUPERVISED, FINETUNED, ENLARGED]
    return _panels_by_size(lines, paper, trials, order=order, title=title, room=0.3, free=[ENLARGED])


def scaling_title(gains: pd.DataFrame) -> str:
    """The finding in one line, from `scaling.size_gains`."""
    if gains.empty:
        return "Accuracy of fine-tuned models by size (two sizes at one label fraction are needed for a comparison)"
    few, many = gains.iloc[0], gains.iloc[-1]
    sizes = f"{few['large']} over {few['small']}"
    first = f"{sizes}: {points_of(few['gain'])} points with {percent(few['label_fraction'])} of the labels"
    return first if len(gains) == 1 else f"{first}, {points_of(many['gain'])} with {percent(many['label_fraction'])}"


def _relative_title(gains: pd.DataFrame) -> str:
    """The same finding relative to the smallest model, for the fewest and the most labels."""
    if gains.empty:
        return "Relative improvement of fine-tuned models with size"
    parts = [
        f"{100 * row['relative']:+.1f}\u00a0% with {percent(row['label_fraction'])} of the labels"
        for row in gains.iloc[[0, -1][: len(gains)]].to_dict("records")
    ]
    return f"Relative gain of {gains.iloc[0]['large']} over {gains.iloc[0]['small']}: {', '.join(parts)}"


def _panels_by_size(
    lines: pd.DataFrame, paper: pd.DataFrame, trials: pd.DataFrame, *, room: float = 0.11, **options: Any
) -> go.Figure:
    """`facets.panels` over encoder parameters (`size_axis` with `room`); `options` are those that are left."""
    axis = {"title_text": "encoder parameters", **size_axis(lines, room)}
    return panels(lines, paper, x="parameters", axis=axis, shown=on_imagenet(trials), **options)


def _methods(trials: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame]]:
    """Stage and trials of each panel of Figure A.1; a supervised trial of unknown regularization counts as plain."""
    regularized = trials["regularized"].fillna(False)
    return {
        SUPERVISED: ("supervised", trials[~regularized]),
        REGULARIZED: ("supervised", trials[regularized]),
        FINETUNED: ("finetune", trials),
    }


def _by_size(points: pd.DataFrame, styles: Mapping[float, int]) -> pd.DataFrame:
    """Points of `size_points` as lines: color by label fraction, dashed with selective kernels."""
    selective = has_selective_kernels(points["architecture"]).astype(int)
    names = points["label_fraction"].map(of_labels)
    return points.assign(series=names, style=points["label_fraction"].map(styles), dash=selective)


def _relative(points: pd.DataFrame, styles: Mapping[float, int]) -> pd.DataFrame:
    """Lines of the improvement over the smallest model of all, in percent, at the label fractions that have it.

    The standard deviation of a ratio m / b is, to first order, m / b times the root of the sum of both squared
    relative standard deviations; the smallest model itself is the reference and has none.
    """
    if points["architecture"].nunique() < 2:
        return _by_size(points.iloc[:0], styles)
    smallest = points.sort_values("parameters", kind="stable")["architecture"].iloc[0]
    base = points[points["architecture"] == smallest].set_index("label_fraction")
    kept = points[points["label_fraction"].isin(base.index[base["mean"] > 0])]
    kept = kept[kept["label_fraction"].map(kept["label_fraction"].value_counts()) > 1]
    low, spread = (kept["label_fraction"].map(base[name]) for name in ("mean", "std"))
    ratio = kept["mean"] / low
    error = ratio * np.sqrt((kept["std"] / kept["mean"]) ** 2 + (spread / low) ** 2)
    notes = [f"{100 * (value - 1):+.1f} % relative to {smallest}" for value in ratio]
    lines = _by_size(kept.assign(y=100 * (ratio - 1), error=100 * error, note=notes), styles)
    own = lines["architecture"] == smallest
    lines.loc[own, "error"] = np.nan
    lines["series"] += np.where(lines["dash"] == 1, ", selective kernels", "")
    return lines
