"""How soft the teacher's labels should be (the paper's Figure F.1)."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import panels_by_fraction
from reports.figures.style import empty_figure
from reports.tables import best_points

TITLE = "Distillation temperature"


def accuracy_by_temperature(trials: pd.DataFrame) -> go.Figure:
    """Top-1 of students against distillation temperature (log) by label fraction, one line a student and teacher."""
    by = ["architecture", "parameters", "teacher_architecture", "label_fraction", "temperature"]
    points = best_points(trials, "distill", by)
    points = points[points["label_fraction"].notna()]
    if points["temperature"].nunique() < 2:
        return empty_figure(TITLE, "It needs the stage distill over two or more values of `temperature`.")
    pairs = points["architecture"] + " taught by " + points["teacher_architecture"].fillna("an unknown teacher")
    order = pairs[points["parameters"].sort_values(kind="stable").index].unique().tolist()
    lines = points.assign(series=pairs, style=pairs.map(order.index), dash=0)
    figure = panels_by_fraction(lines, "temperature", "temperature", TITLE)
    values = sorted(points["temperature"].unique())
    return figure.update_xaxes(type="log", tickvals=values, ticktext=[f"{value:g}" for value in values])
