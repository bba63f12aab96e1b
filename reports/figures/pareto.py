"""Pareto fronts: the best accuracy for what it costs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.figures.facets import TOP1, of_labels
from reports.figures.points import fraction_styles, seed_points, size_axis
from reports.figures.style import color_of, empty_figure, finish, symbol_of

TITLE = "Pareto fronts: top-1 against what it costs"
AXES = {
    "parameters": "encoder parameters",
    "total_flops": "training FLOPs, ancestors included",
    "device_hours": "device-hours, ancestors included",
    "money": "money",
}
PANELS_IN_A_ROW = 2


def pareto_fronts(fronts: pd.DataFrame, currency: str = "") -> go.Figure:
    """Top-1 against encoder parameters, training FLOPs, device-hours and money (all log), one panel each that is
    known, one front a label fraction.

    `fronts` is `pareto.fronts`. Steps join what no other candidate beats; small faint points are beaten ones.
    """
    fronts = fronts[fronts["amount"] > 0]
    costs = [cost for cost in AXES if (fronts["cost"] == cost).any()]
    if not costs:
        return empty_figure(TITLE, "It needs the stages finetune, supervised, linear or distill.", "digits")
    width, rows = min(PANELS_IN_A_ROW, len(costs)), -(-len(costs) // PANELS_IN_A_ROW)
    figure = make_subplots(
        rows=rows, cols=width, shared_yaxes="all", horizontal_spacing=0.05, vertical_spacing=0.24 / rows
    )
    for number, cost in enumerate(costs):
        row, column = number // width + 1, number % width + 1
        for fraction, style in fraction_styles(fronts).items():
            points = fronts[(fronts["cost"] == cost) & (fronts["label_fraction"] == fraction)]
            for trace in _traces(points, style, legend=number == 0):
                figure.add_trace(trace, row=row, col=column)
        title = f"{AXES[cost]} ({currency})" if cost == "money" and currency else AXES[cost]
        figure.update_xaxes(title_text=title, **_axis(cost, fronts), row=row, col=column)
    figure.update_yaxes(title_text=TOP1, col=1)
    return finish(figure, TITLE, height=90 + 340 * rows, min_width=360 * width)


def _axis(cost: str, fronts: pd.DataFrame) -> dict[str, object]:
    if cost == "parameters":
        return size_axis(fronts, room=0.25)
    return {"type": "log", "exponentformat": "power", "nticks": 6}


def _traces(points: pd.DataFrame, style: int, legend: bool) -> list[go.Scatter]:
    """The front, and below it what it beats."""
    name = of_labels(points["label_fraction"].iloc[0]) if len(points) else ""
    points = points.assign(variants=1)
    beaten, best = points[~points["on_front"]], points[points["on_front"]]
    traces = []
    if len(beaten):
        color, symbol = color_of(style), symbol_of(style)
        below = seed_points(beaten, "amount", name, style=style, legend=False)
        below.update(mode="markers", opacity=0.35, error_y=None, marker={"symbol": symbol, "size": 5, "color": color})
        traces.append(below)
    if len(best):
        front = seed_points(best, "amount", name, style=style, legend=legend)
        traces.append(front.update(line={"shape": "hv"}))
    return traces
