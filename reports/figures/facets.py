"""Panels side by side: the layout that most figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.comparable import joined
from reports.figures.points import PAPER, paper_points, seed_points, with_hover
from reports.figures.style import HEIGHT, finish, percent

PANELS_IN_A_ROW = 3
PANEL_HEIGHT = 345
WHOLE = ""  # the name of the only panel of a figure without panels
TOP1 = "top-1 accuracy (%)"


def panels(
    lines: pd.DataFrame,
    paper: pd.DataFrame,
    *,
    order: Sequence[str],
    x: str,
    title: str,
    axis: dict[str, Any],
    shown: bool = False,
    y_title: str = TOP1,
    free: Sequence[str] = (),
) -> go.Figure:
    """One panel for each name in `order` that has points, at most `PANELS_IN_A_ROW` side by side.

    They share a y axis, all but those in `free`.

    `lines` are points (`tables.best_points`) with the columns `panel`, `series` (the name of the line that a point
    belongs to), and `style` and `dash`, the numbers of its color and symbol and of its kind of line; points of one
    series that differ in a column `family` are not joined. `paper` is the same of the paper's numbers, drawn in the
    panels that the study has. The legend names each series once. `axis` are the properties of all x axes.
    """
    present = [name for name in order if (lines["panel"] == name).any()]
    width = min(PANELS_IN_A_ROW, len(present))
    rows = math.ceil(len(present) / width)
    figure = make_subplots(
        rows=rows,
        cols=width,
        subplot_titles=present,
        shared_yaxes=False if free else "all",
        horizontal_spacing=0.09 if free else 0.05,
        vertical_spacing=0.36 / rows,
    )
    named: set[str] = set()
    for trace, panel, name in _traces(lines, paper, present, x, shown):
        trace.showlegend = name not in named
        figure.add_trace(trace, row=present.index(panel) // width + 1, col=present.index(panel) % width + 1)
        named.add(name)
    figure.update_xaxes(**axis)
    figure.update_yaxes(title_text=y_title, col=1)
    if free:
        _share(figure, [name for name in present if name not in free], present)
    caveat = joined(lines["caveat"])
    if present == [WHOLE]:
        return finish(figure, title, height=HEIGHT, caveat=caveat)
    height = 90 + PANEL_HEIGHT * rows
    return finish(figure, title, height=height, min_width=300 * width, panels=width, caveat=caveat)


def panels_by_fraction(lines: pd.DataFrame, paper: pd.DataFrame, **options: Any) -> go.Figure:
    """`panels`, one for each label fraction; `options` are those of `panels` but for `order`."""
    fractions = sorted(lines["label_fraction"].dropna().unique())
    return panels(by_fraction(lines), by_fraction(paper), order=[of_labels(f) for f in fractions], **options)


def by_fraction(lines: pd.DataFrame) -> pd.DataFrame:
    """The same points, their panel named for their label fraction; those without one are left out."""
    known = lines[lines["label_fraction"].notna()]
    return known.assign(panel=[of_labels(fraction) for fraction in known["label_fraction"]])


def of_labels(fraction: float) -> str:
    """0.01 -> "1 % of the labels"."""
    return f"{percent(fraction)} of the labels"


def _traces(
    lines: pd.DataFrame, paper: pd.DataFrame, present: Sequence[str], x: str, shown: bool
) -> list[tuple[go.Scatter, str, str]]:
    """Traces with their panel and the name that the legend has for them, the paper's below the study's."""
    family = ["family"] if "family" in lines else []
    in_order = pd.CategoricalDtype(list(present), ordered=True)
    lines, paper = (
        with_hover(part[part["panel"].isin(present)]).assign(panel=lambda part: part["panel"].astype(in_order))
        for part in (lines, paper)
    )
    found = []
    for keys, line in paper.groupby(["style", "series", *family, "panel"], observed=True):
        style, *_, panel = cast(tuple[Any, ...], keys)
        found.append((paper_points(line, x, style=style, legend=True, shown=shown), panel, PAPER))
    for keys, line in lines.groupby(["style", "dash", "series", *family, "panel"], observed=True):
        style, dash, name, *_, panel = cast(tuple[Any, ...], keys)
        found.append((seed_points(line, x, name, style=style, dash=dash), panel, name))
    return found


def _share(figure: go.Figure, together: Sequence[str], present: Sequence[str]) -> None:
    """Let the y axes of some panels match; the others keep their own range."""
    numbers = [present.index(name) + 1 for name in together]
    for number in numbers[1:]:
        figure.layout[f"yaxis{number}"].matches = "y" if numbers[0] == 1 else f"y{numbers[0]}"
