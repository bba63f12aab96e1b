"""Label efficiency: with how many times as many labels another model, or another method, reaches the same accuracy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.comparable import joined
from reports.figures.facets import of_labels
from reports.figures.points import custom_data, error_bars, fraction_styles, some_ids
from reports.figures.style import COLORS, color_of, empty_figure, finish, percent, plain, symbol_of

TITLE = "Label efficiency: labels that others need to be as good"
CENSORED = {"more than": ("\N{RIGHTWARDS ARROW}", "middle right"), "at most": ("\N{LEFTWARDS ARROW}", "middle left")}
SPREAD = 0.6  # of a row's height, over which the label fractions of one model are spread
ROW_HEIGHT = 14  # px a label fraction


def equivalent_labels(trials: pd.DataFrame, efficiency: pd.DataFrame) -> go.Figure:
    """How many times as many labels others need (log) to equal each fine-tuned model: the smallest model fine-tuned,
    and the same model trained supervised; one row a model, the smallest on top, one color a label fraction.

    `efficiency` is `efficiency.label_efficiency` of `trials`. Bars are 95 % intervals over seeds; without several
    seeds there is none and the marker is hollow. One with an arrow is censored: the other one was not trained with so
    many, or so few, labels.
    """
    if efficiency.empty:
        need = "It needs the stage finetune of two architectures, or the stage supervised beside it."
        return empty_figure(TITLE, need, "imagenet-table1")
    sizes = trials.drop_duplicates("architecture").set_index("architecture")["parameters"]
    models = sorted(efficiency["architecture"].unique(), key=lambda model: (-sizes[model], model))
    stages = [stage for stage in ("finetune", "supervised") if (efficiency["reference_stage"] == stage).any()]
    figure = make_subplots(
        rows=1, cols=len(stages), subplot_titles=[_panel(efficiency, stage) for stage in stages], shared_yaxes=True
    )
    styles = fraction_styles(efficiency)
    for column, stage in enumerate(stages, start=1):
        of_stage = efficiency[efficiency["reference_stage"] == stage]
        for fraction, style in styles.items():
            rows = of_stage[of_stage["label_fraction"] == fraction]
            if len(rows):
                offset = SPREAD * (0.5 - (style + 0.5) / len(styles))
                trace = _series(rows, [models.index(model) + offset for model in rows["architecture"]], style)
                figure.add_trace(trace, row=1, col=column)
    figure.add_traces([_legend(fraction, style) for fraction, style in styles.items()])
    figure.add_vline(x=1, line={"width": 1.5, "dash": "dot", "color": COLORS[-1]})
    figure.update_xaxes(type="log", title_text="labels needed / labels used", **_ticks(efficiency))
    ticks = {"tickvals": list(range(len(models))), "range": [-0.6, len(models) - 0.4]}
    figure.update_yaxes(ticktext=[plain(model) for model in models], zeroline=False, **ticks)
    height = 150 + len(models) * (12 + ROW_HEIGHT * len(styles))
    caveat = joined(efficiency["caveat"])
    return finish(figure, TITLE, height=height, min_width=320 * len(stages), panels=len(stages), caveat=caveat)


def _ticks(efficiency: pd.DataFrame) -> dict[str, object]:
    """Every tick with its whole number: on its own Plotly writes 2 and 5 for 20 and 50."""
    known = efficiency[["factor", "low", "high"]].to_numpy(np.float64)
    low, high = math.floor(math.log10(np.nanmin(known))), math.ceil(math.log10(np.nanmax(known)))
    steps = (1, 2, 5) if high - low <= 2 else (1, 3) if high - low <= 4 else (1,)
    values = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"tickvals": values, "ticktext": [f"{value:,.10g}" for value in values]}


def _legend(fraction: float, style: int) -> go.Scatter:
    """An entry of the legend alone, as no single point shows the symbol of all of them."""
    color, name = color_of(style), of_labels(fraction)
    marker = {"symbol": symbol_of(style), "size": 10, "color": color}
    return go.Scatter(x=[None], y=[None], name=name, legendgroup=name, mode="markers", marker=marker)


def _panel(efficiency: pd.DataFrame, stage: str) -> str:
    if stage == "supervised":
        return "the same model supervised"
    references = efficiency.loc[efficiency["reference_stage"] == stage, "reference"]
    return f"{plain(references.iloc[0])} fine-tuned"


def _series(rows: pd.DataFrame, y: list[float], style: int) -> go.Scatter:
    symbol, color = symbol_of(style), color_of(style)
    known = rows["low_bound"] != "unknown"
    arrows = [CENSORED.get(bound, ("", "middle right")) for bound in rows["bound"]]
    name = of_labels(rows["label_fraction"].iloc[0])
    return go.Scatter(
        x=rows["factor"].tolist(),
        y=y,
        error_x=error_bars((rows["high"] - rows["factor"]).clip(lower=0), (rows["factor"] - rows["low"]).clip(lower=0)),
        name=name,
        legendgroup=name,
        showlegend=False,
        mode="markers+text",
        text=[arrow for arrow, _ in arrows],
        textposition=[place for _, place in arrows],
        textfont={"color": color, "size": 18},
        cliponaxis=False,
        marker={
            "symbol": [symbol if interval else f"{symbol}-open" for interval in known],
            "size": 10,
            "color": color,
            "line": {"width": 2, "color": color},
        },
        hovertext=[_hover(row) for row in rows.to_dict("records")],
        hoverinfo="text",
        customdata=custom_data(rows.assign(stage="finetune")),
    )


def _hover(row: Any) -> str:
    head = f"{row['architecture']}, {percent(row['label_fraction'])} of the labels, top-1 {100 * row['mean']:.1f} %"
    return "<br>".join([f"<b>{plain(head)}</b>", plain(row["sentence"]), plain(row["basis"]), *some_ids(row["ids"])])
