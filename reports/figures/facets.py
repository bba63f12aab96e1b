"""Panels side by side, one for each label fraction."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.figures.style import finish, percent, seed_points

COLUMNS = 3
PANEL_HEIGHT = 330


def panels_by_fraction(lines: pd.DataFrame, x: str, x_title: str, title: str) -> go.Figure:
    """One panel a label fraction, on a shared y axis, at most `COLUMNS` in a row; the legend names each series once.

    `lines` are points (`tables.best_points`) with a column `series` (the name of the line that a point belongs to), and
    `style` and `dash`, the numbers of its color and symbol and of its kind of line.
    """
    fractions = sorted(lines["label_fraction"].unique())
    width = min(COLUMNS, len(fractions))
    rows = math.ceil(len(fractions) / width)
    figure = make_subplots(
        rows=rows,
        cols=width,
        subplot_titles=[f"{percent(fraction)} of the labels" for fraction in fractions],
        shared_yaxes="all",
        horizontal_spacing=0.05,
        vertical_spacing=0.28 / rows,
    )
    named: set[str] = set()
    for name in lines.sort_values(["style", "dash"], kind="stable")["series"].unique():
        for panel, fraction in enumerate(fractions):
            line = lines[(lines["series"] == name) & (lines["label_fraction"] == fraction)]
            if len(line):
                style, dash = int(line["style"].iloc[0]), int(line["dash"].iloc[0])
                trace = seed_points(line, x, name, style=style, dash=dash, legend=name not in named)
                figure.add_trace(trace, row=panel // width + 1, col=panel % width + 1)
                named.add(name)
    figure.update_yaxes(title_text="top-1 accuracy (%)", col=1)
    figure.update_xaxes(title_text=x_title)
    height = 110 + PANEL_HEIGHT * rows
    figure.update_layout(legend={"y": 1 + 34 / height})  # above the titles of the panels
    return finish(figure, title, height=height, min_width=300 * width)
