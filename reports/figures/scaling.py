"""Accuracy against model size, and what size gains, for each label fraction (the paper's Figures 1 and 4)."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from reports.figures.style import (
    COLORS,
    SYMBOLS,
    empty_figure,
    finish,
    percent,
    plain,
    points_of,
    seed_points,
    size_axis,
)
from reports.scaling import size_gains, size_points

NEED = "It needs the stage finetune over two or more values of `architecture`."


def accuracy_against_parameters(trials: pd.DataFrame) -> go.Figure:
    """Fine-tuned top-1 against encoder parameters (log), one line a label fraction; selective kernels apart, dashed.

    The title states what the data says: the gain of the biggest over the smallest model, with the fewest and most
    labels.
    """
    points = size_points(trials)
    if points.empty:
        return empty_figure("Accuracy of fine-tuned models by size", NEED)
    figure = go.Figure()
    for style, fraction in enumerate(sorted(points["label_fraction"].unique())):
        of_fraction = points[points["label_fraction"] == fraction]
        for with_sk, family in of_fraction.groupby(of_fraction["architecture"].str.endswith("sk")):
            name = f"{percent(fraction)} of the labels{', selective kernels' if with_sk else ''}"
            figure.add_trace(seed_points(family, "parameters", name, style=style, dash=int(with_sk)))
    figure.update_xaxes(title_text="encoder parameters", **size_axis(points))
    figure.update_yaxes(title_text="top-1 accuracy (%)")
    return finish(figure, scaling_title(size_gains(points)))


def scaling_title(gains: pd.DataFrame) -> str:
    """The finding in one line, from `scaling.size_gains`."""
    if gains.empty:
        return "Accuracy of fine-tuned models by size (two sizes at one label fraction are needed for a comparison)"
    few, many = gains.iloc[0], gains.iloc[-1]
    sizes = f"{few['large']} over {few['small']}"
    first = f"{sizes}: {points_of(few['gain'])} points with {percent(few['label_fraction'])} of the labels"
    return first if len(gains) == 1 else f"{first}, {points_of(many['gain'])} with {percent(many['label_fraction'])}"


def gain_of_biggest(trials: pd.DataFrame) -> go.Figure:
    """Gain of the biggest over the smallest model in percentage points, one bar a label fraction; bars: standard
    error."""
    gains = size_gains(size_points(trials))
    if gains.empty:
        return empty_figure("What the biggest model gains over the smallest", NEED)
    small, large = gains.iloc[0]["small"], gains.iloc[0]["large"]
    errors = [None if math.isnan(error) else 100 * error for error in gains["error"]]
    figure = go.Figure(
        go.Scatter(
            x=[percent(fraction) for fraction in gains["label_fraction"]],
            y=[100 * gain for gain in gains["gain"]],
            error_y={"type": "data", "array": errors, "thickness": 1.5, "width": 6},
            mode="markers",
            marker={
                "symbol": [f"{SYMBOLS[0]}-open" if error is None else SYMBOLS[0] for error in errors],
                "size": 10,
                "color": COLORS[0],
                "line": {"width": 2, "color": COLORS[0]},
            },
            hovertext=[_gain_hover(row) for _, row in gains.iterrows()],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_xaxes(title_text="share of the labels", type="category")
    figure.update_yaxes(title_text="gain in top-1 (percentage points)", rangemode="tozero", zeroline=True)
    return finish(figure, f"What {large} gains over {small}, by label fraction", height=380)


def _gain_hover(row: pd.Series) -> str:
    error = (
        "one seed, so no spread is known" if math.isnan(row["error"]) else f"standard error {100 * row['error']:.1f}"
    )
    return (
        f"<b>{plain(row['large'])} {100 * row['high']:.1f} %, {plain(row['small'])} {100 * row['low']:.1f} %</b><br>"
        f"{points_of(row['gain'])} points ({error}; n = {row['n']})<br>relative {100 * row['relative']:+.1f} %"
    )
