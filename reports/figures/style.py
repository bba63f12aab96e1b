"""What all figures share: colors, symbols, templates for light and dark, words, and how a point over seeds is drawn."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
"""Okabe and Ito 2008, safe for the color blind, without the black and the yellow that dark and light paper swallow."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
PATTERNS = ("", "/", ".", "x", "-")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HEIGHT = 440
SHOWN_IDS = 6
STAGES = {
    "pretrain": "pretrained",
    "linear": "linear evaluation",
    "finetune": "fine-tuned",
    "supervised": "supervised from scratch",
    "distill": "distilled",
}


def template(ink: str, faint: str, paper: str) -> go.layout.Template:
    """A plain template: `ink` for text, `faint` for grid and axis lines, `paper` behind labels; the figure is
    see-through."""
    axis = {
        "gridcolor": faint,
        "linecolor": faint,
        "zerolinecolor": faint,
        "showline": True,
        "ticks": "outside",
        "tickcolor": faint,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": ink},
            "title": {"x": 0.01, "xanchor": "left", "font": {"size": 17}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": paper, "font": {"family": FONT, "size": 13, "color": ink}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": faint, "activecolor": ink},
            "margin": {"l": 64, "r": 20, "t": 24, "b": 56},
        }
    )


LIGHT = template(ink="#1c2430", faint="#d9dee5", paper="#ffffff")
DARK = template(ink="#e6e9ee", faint="#3a424e", paper="#1b2027")


def percent(share: float) -> str:
    """0.01 -> "1 %", with a space that does not break."""
    return f"{100 * share:.4g}\u00a0%"


def points_of(share: float) -> str:
    """A difference of accuracies in percentage points: 0.123 -> "+12.3"."""
    return f"{100 * share:+.1f}"


def accuracy(mean: float, std: float = math.nan) -> str:
    """0.621, 0.004 -> "62.1 ± 0.4 %"; without a spread "62.1 %"."""
    spread = "" if math.isnan(std) else f"\u00a0±\u00a0{100 * std:.1f}"
    return f"{100 * mean:.1f}{spread}\u00a0%"


def amount(count: float) -> str:
    """23561152 -> "23.6 M"."""
    for size, unit in ((1e9, "\u00a0B"), (1e6, "\u00a0M"), (1e3, "\u00a0K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def plain(text: object) -> str:
    """Text that a figure shows as it is: what looks like HTML is escaped."""
    return html.escape(str(text), quote=False)


def finish(figure: go.Figure, title: str, *, height: int = HEIGHT, min_width: int = 340) -> go.Figure:
    """Give a figure its template, its title (wrapped for images, whole in `layout.meta` for the page) and its sizes
    in px."""
    wrapped = "<br>".join(plain(line) for line in textwrap.wrap(title, 88))
    top = 64 + 22 * wrapped.count("<br>")
    entries = sum(trace.showlegend is not False for trace in figure.data)
    height += 20 * max(0, math.ceil(entries / 4) - 2)  # a long legend would squeeze the plot
    figure.update_layout(
        template=LIGHT,
        title={"text": wrapped, "y": 0.98, "yanchor": "top", "yref": "container"},
        margin={"t": top},
        height=height,
        meta={"title": title, "min_width": min_width},
    )
    return figure


def empty_figure(title: str, need: str) -> go.Figure:
    """What stands in place of a figure without data: which part of a study would fill it."""
    figure = go.Figure()
    figure.add_annotation(
        text="<br>".join(plain(line) for line in textwrap.wrap(f"No data yet. {need}", 60)),
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.5,
        showarrow=False,
        font={"size": 15},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    finish(figure, title, height=200)
    return figure.update_layout(meta={**figure.layout.meta, "need": need})


def size_axis(points: pd.DataFrame, room: float = 0.11) -> dict[str, object]:
    """A log axis of encoder parameters; up to six architectures are named at their size.

    Two that are closer than `room`, a share of the axis, would overlap: then there are only numbers.
    """
    sizes = points.drop_duplicates("architecture").sort_values("parameters")
    logs = [math.log10(size) for size in sizes["parameters"]]
    if 1 < len(logs) <= 6 and all(b - a > room * (logs[-1] - logs[0]) for a, b in pairwise(logs)):
        names, counts = sizes["architecture"].tolist(), sizes["parameters"].tolist()
        text = [f"{plain(name)}<br>{amount(count)}" for name, count in zip(names, counts, strict=True)]
        return {"type": "log", "tickvals": counts, "ticktext": text}
    return {"type": "log", "dtick": "D2", "exponentformat": "B"}


def seed_points(
    points: pd.DataFrame, x: str, name: str, *, style: int, dash: int = 0, legend: bool = True
) -> go.Scatter:
    """One series of means over seeds (`tables.best_points`): a line, error bars of one standard deviation, y in
    percent.

    A point of a single seed has no error bar and is hollow. `style` numbers color and symbol, `dash` the kind of
    line.
    """
    points = points.sort_values(x)
    symbol = SYMBOLS[style % len(SYMBOLS)]
    color = COLORS[style % len(COLORS)]
    return go.Scatter(
        x=points[x].tolist(),
        y=[100 * mean for mean in points["mean"]],
        error_y={"type": "data", "array": [_bar(std) for std in points["std"]], "thickness": 1.5, "width": 4},
        name=plain(name),
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers",
        line={"color": color, "width": 2, "dash": DASHES[dash % len(DASHES)]},
        marker={
            "symbol": [f"{symbol}-open" if single else symbol for single in points["single_seed"]],
            "size": 10,
            "color": color,
            "line": {"width": 2, "color": color},
        },
        hovertext=[hover_text(point) for _, point in points.iterrows()],
        hoverinfo="text",
    )


def hover_text(point: pd.Series) -> str:
    """Lines of a point's hover: what it is, its accuracy and seeds, its settings, its trials."""
    count, seeds = point["n"], ", ".join(str(seed) for seed in point["seeds"])
    if not seeds:
        spread = "seeds not stated"
    elif count == 1:
        spread = f"one seed ({seeds}), so no spread is known"
    else:
        spread = f"mean ± standard deviation of n = {count}, seeds {seeds}"
    fraction = point.get("label_fraction")
    labels = f", {percent(fraction)} of the labels" if pd.notna(fraction) else ""
    lines = [
        f"<b>{plain(point['architecture'])}, {STAGES[point['stage']]}{labels}</b>",
        f"top-1 {accuracy(point['mean'], point['std'])}: {spread}",
        *([_settings(point)] if _settings(point) else []),
        *([f"best of {point['variants']} settings tried"] if point["variants"] > 1 else []),
        *_some_ids(point["ids"]),
    ]
    return "<br>".join(lines)


def _settings(point: pd.Series) -> str:
    words = {
        "head_depth": "head depth",
        "head_layer": "head layer",
        "temperature": "temperature",
        "distillation_weight": "distillation weight",
        "teacher_architecture": "teacher",
    }
    known = [(word, point[key]) for key, word in words.items() if key in point and pd.notna(point[key])]
    return ", ".join(f"{word} {plain(value)}" for word, value in known)


def _some_ids(ids: Sequence[str]) -> list[str]:
    more = [f"and {len(ids) - SHOWN_IDS} more"] if len(ids) > SHOWN_IDS else []
    return [plain(trial_id) for trial_id in ids[:SHOWN_IDS]] + more


def _bar(std: float) -> float | None:
    return None if math.isnan(std) else 100 * std
