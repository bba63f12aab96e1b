"""How means over seeds are drawn: a line with error bars, what its hover says, and the paper's numbers beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from reports.figures.style import STAGES, accuracy, amount, color_of, dash_of, percent, plain, symbol_of

PAPER = "paper (ImageNet)"
PAPER_COLOR = "#8A8A8A"
SHOWN_IDS = 6
DECADES = tuple(10**power for power in range(3, 10))


def seed_points(
    points: pd.DataFrame,
    x: str,
    name: str,
    *,
    style: int,
    symbol: int | None = None,
    dash: int = 0,
    legend: bool = True,
) -> go.Scatter:
    """One series of means over seeds (`tables.best_points`): a line, error bars of one standard deviation, y in
    percent.

    A point of a single seed has no error bar and is hollow. `style` numbers color and symbol (unless `symbol` does),
    `dash` the kind of line. Columns `y` and `error`, in the axis' own unit, replace the mean and its standard
    deviation; `x_error` adds bars along x; `note` is a further line of the hover, `hover` all of it (`with_hover`).
    Each point's customdata is [architecture, label fraction, stage], by which a page may hide points.
    """
    if (
        pd.api.types.is_numeric_dtype(points[x]) and not points[x].is_monotonic_increasing
    ):  # categories keep the order that they come in
        points = points.sort_values(x, kind="stable")
    shape = symbol_of(style if symbol is None else symbol)
    color = color_of(style)
    y = points["y"] if "y" in points else 100 * points["mean"]
    error = points["error"] if "error" in points else 100 * points["std"]
    return go.Scatter(
        x=_gaps(points[x]),
        y=_gaps(y),
        error_x=error_bars(points["x_error"]) if "x_error" in points else None,
        error_y=error_bars(error),
        name=plain(name),
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers",
        line={"color": color, "width": 2, "dash": dash_of(dash)},
        marker={
            "symbol": [f"{shape}-open" if single else shape for single in points["single_seed"]],
            "size": 10,
            "color": color,
            "line": {"width": 2, "color": color},
        },
        hovertext=(points if "hover" in points else with_hover(points))["hover"].tolist(),
        hoverinfo="text",
        customdata=custom_data(points),
    )


def with_hover(points: pd.DataFrame) -> pd.DataFrame:
    """The points with what their hovers say, made for many series at once: it takes much of a figure's time."""
    return points.assign(hover=[hover_text(cast(dict[str, Any], point)) for point in points.to_dict("records")])


def paper_points(points: pd.DataFrame, x: str, *, style: int, legend: bool, shown: bool) -> go.Scatter:
    """The paper's series on a study's axes: gray, hollow, dotted; in the legend only, unless `shown`."""
    trace = seed_points(points, x, PAPER, style=style, legend=legend)
    symbol = f"{symbol_of(style)}-open"
    trace.line.update(color=PAPER_COLOR, width=1.5, dash="dot")
    trace.marker.update(color=PAPER_COLOR, symbol=[symbol] * len(points), size=8, line={"width": 1.5})
    trace.hovertext = [f"{PAPER}<br>{text}" for text in trace.hovertext]
    return trace.update(visible=True if shown else "legendonly", legendrank=2000)  # last in the legend


def reference_layer(trials: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The paper's trials that stand beside a study's: none where the study is the paper itself."""
    return reference.iloc[:0] if (trials["source"] == "paper").any() else reference


def on_imagenet(trials: pd.DataFrame) -> bool:
    """Whether a study's accuracies can be compared with the paper's: its data set is named imagenet, or imagenet-..."""
    return bool(trials["data"].str.fullmatch(r"imagenet(-.*)?").any())


def custom_data(points: pd.DataFrame) -> list[list[Any]]:
    """[architecture, label fraction, stage] of each point; null for what a point does not have."""
    names, unknown = ("architecture", "label_fraction", "stage"), pd.Series(pd.NA, index=points.index)
    columns = [_gaps(points.get(name, unknown)) for name in names]
    return [list(row) for row in zip(*columns, strict=True)]


def size_axis(points: pd.DataFrame, room: float = 0.11) -> dict[str, object]:
    """A log axis of encoder parameters; up to six architectures are named at their size.

    Two that are closer than `room`, a share of the axis, would overlap: then there are only numbers, as there are
    beyond the named ones, where the paper's models may be shown.
    """
    sizes = points.drop_duplicates("architecture").sort_values("parameters")
    counts = sizes["parameters"].tolist()
    logs = [math.log10(count) for count in counts]
    ticks = {count: amount(count) for count in _round_numbers(counts)}
    if 1 < len(logs) <= 6 and all(b - a > room * (logs[-1] - logs[0]) for a, b in pairwise(logs)):
        names = zip(sizes["architecture"], counts, strict=True)
        powers = {count: amount(count) for count in DECADES if not counts[0] / 3 < count < 3 * counts[-1]}
        ticks = powers | {count: f"{plain(name)}<br>{amount(count)}" for name, count in names}
    return {"type": "log", "tickvals": list(ticks), "ticktext": list(ticks.values())}


def _round_numbers(sizes: Sequence[float]) -> list[float]:
    """Round numbers from a thousand up, the denser the closer together the sizes are."""
    span = max(sizes) / min(sizes)
    steps = (1, 1.5, 2, 3, 4, 5, 7) if span < 8 else (1, 2, 5) if span < 300 else (1,)
    return [step * decade for decade in DECADES for step in steps]


def fraction_axis(fractions: Sequence[float]) -> dict[str, object]:
    """A log axis of label fractions, named where there are points."""
    values = sorted(set(fractions))
    return {"type": "log", "tickvals": values, "ticktext": [percent(value) for value in values]}


def hover_text(point: Mapping[str, Any]) -> str:
    """Lines of a point's hover: what it is, its accuracy and seeds, its settings, its trials."""
    count, seeds = point["n"], ", ".join(str(seed) for seed in point["seeds"])
    if not seeds:
        spread = "seeds not stated"
    elif count == 1:
        spread = f"one seed ({seeds}), so no spread is known"
    else:
        spread = f"mean ± standard deviation of n = {count}, seeds {seeds}"
    fraction = point.get("label_fraction")
    labels = f", {percent(fraction)} of the labels" if fraction is not None and pd.notna(fraction) else ""
    lines = [
        f"<b>{plain(point['architecture'])}, {STAGES[point['stage']]}{labels}</b>",
        f"top-1 {accuracy(point['mean'], point['std'])}: {spread}",
        *([plain(point["note"])] if "note" in point else []),
        *([_settings(point)] if _settings(point) else []),
        *(["settings chosen on held-out images"] if point.get("chosen") is True else []),
        *([f"best of {point['variants']} settings tried"] if point["variants"] > 1 else []),
        *some_ids(point["ids"]),
    ]
    return "<br>".join(lines)


def some_ids(ids: Sequence[str]) -> list[str]:
    """The trials behind a point, at most `SHOWN_IDS` of them, as lines of a hover."""
    more = [f"and {len(ids) - SHOWN_IDS} more"] if len(ids) > SHOWN_IDS else []
    return [plain(trial_id) for trial_id in ids[:SHOWN_IDS]] + more


def _settings(point: Mapping[str, Any]) -> str:
    words = {
        "head_depth": "head depth",
        "head_layer": "head layer",
        "temperature": "temperature",
        "distillation_weight": "distillation weight",
        "teacher_architecture": "teacher",
    }
    known = [(word, point[key]) for key, word in words.items() if key in point and pd.notna(point[key])]
    return ", ".join(f"{word} {plain(value)}" for word, value in known)


def _gaps(values: pd.Series) -> list[Any]:
    """Values as plain types, None where one is missing: a gap in the figure, null in the page."""
    return [None if pd.isna(value) else value for value in values.tolist()]


def error_bars(above: pd.Series, below: pd.Series | None = None) -> dict[str, object] | None:
    """Error bars in the unit of their axis, the same on both sides unless `below` is given; none where unknown.

    Plotly draws null as a bar of length zero, so a single unknown one is a word, which it leaves out.
    """
    if above.isna().all():
        return None
    ends = {"array": above} if below is None else {"array": above, "arrayminus": below}
    arrays = {name: ["unknown" if pd.isna(value) else value for value in end] for name, end in ends.items()}
    return {"type": "data", **arrays, "thickness": 1.5, "width": 4}


def fraction_styles(table: pd.DataFrame) -> dict[float, int]:
    """Number of the color and symbol of each label fraction of a table of trials, or of points."""
    return {fraction: style for style, fraction in enumerate(sorted(table["label_fraction"].dropna().unique()))}
