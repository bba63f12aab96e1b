"""Linear evaluation against fine-tuning (the paper's Figure C.1)."""

from __future__ import annotations

import math
from typing import cast

import pandas as pd
import plotly.graph_objects as go

from reports.correlation import as_in_appendix_c, correlation
from reports.figures.facets import of_labels, panels
from reports.figures.points import fraction_styles, on_imagenet, reference_layer
from reports.figures.style import color_of, empty_figure, percent
from reports.scaling import SIZE
from reports.tables import best_points

TITLE = "Linear evaluation and fine-tuning"
OUTPUT, MIDDLE = "fine-tuned from the encoder's output", "fine-tuned from a layer of the head"


def finetuning_against_linear(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure C.1: fine-tuned top-1 against linear evaluation's (with most labels) of the same pretrainings, both in
    percent.

    One point an architecture, one color a label fraction, with the least-squares line; its slope and the correlation
    are written above where there are three points or more.
    """
    lines = _lines(trials)
    if lines["architecture"].nunique() < 2:
        need = "It needs the stages linear and finetune over two or more values of `architecture`."
        return empty_figure(TITLE, need, "imagenet-table1")
    figure = panels(
        lines,
        _lines(reference_layer(trials, reference)),
        order=[OUTPUT, MIDDLE],
        x="linear",
        title=TITLE,
        axis={"title_text": "linear evaluation, top-1 (%)"},
        shown=on_imagenet(trials),
        y_title="fine-tuned, top-1 (%)",
    )
    figure.for_each_trace(lambda trace: trace.update(mode="markers"))
    present = [panel for panel in (OUTPUT, MIDDLE) if (lines["panel"] == panel).any()]
    trends: dict[str, list[str]] = {panel: [] for panel in present}
    for keys, line in lines.groupby(["style", "series", "panel"]):
        style, name, panel = cast(tuple[int, str, str], keys)
        if len(line) > 2:
            trace, text = _trend(line, style, name)
            figure.add_trace(trace, row=1, col=present.index(panel) + 1)
            trends[panel].append(text)
    for column, texts in enumerate(trends.values(), start=1):
        figure.add_annotation(
            text="<br>".join(texts),
            align="left",
            showarrow=False,
            font={"size": 12},
            xref="x domain" if column == 1 else "x2 domain",
            yref="y domain" if column == 1 else "y2 domain",
            x=0.01,
            xanchor="left",
            y=0.99,
            yanchor="top",
        )
    return figure


def _lines(trials: pd.DataFrame) -> pd.DataFrame:
    """Best fine-tuned points of each head layer class, with the linear accuracy of their own pretrainings."""
    trials = as_in_appendix_c(trials)
    tuned = trials[trials["stage"] == "finetune"]
    tuned = trials.assign(panel=trials["head_layer"].eq(0).map({True: OUTPUT, False: MIDDLE}))[
        trials["head_layer"].notna() & trials["pretrain_id"].isin(tuned["pretrain_id"])
    ]
    linear = trials[(trials["stage"] == "linear") & trials["top1"].notna()]
    most = linear.groupby("pretrain_id")["label_fraction"].transform("max")
    by_pretrain = linear[linear["label_fraction"] == most].groupby("pretrain_id")["top1"].mean()
    tuned = tuned[tuned["pretrain_id"].isin(by_pretrain.index)]
    points = best_points(tuned, "finetune", [*SIZE, "panel"])
    pretrain_of = trials.set_index("id")["pretrain_id"]
    found = [by_pretrain.loc[pretrain_of.loc[ids].unique()] for ids in points["ids"]]
    return points.assign(
        linear=[100 * values.mean() for values in found],
        x_error=[100 * values.std() if len(values) > 1 else math.nan for values in found],
        note=[f"linear evaluation {100 * values.mean():.1f} %" for values in found],
        series=points["label_fraction"].map(of_labels),
        style=points["label_fraction"].map(fraction_styles(trials)),
        dash=0,
    )


def _trend(line: pd.DataFrame, style: int, name: str) -> tuple[go.Scatter, str]:
    """Least-squares line through the points of one series, from its lowest to its highest linear accuracy, and what
    it says."""
    found = correlation(line["linear"].tolist(), (100 * line["mean"]).tolist())
    ends = [line["linear"].min(), line["linear"].max()]
    trace = go.Scatter(
        x=ends,
        y=[found.intercept + found.slope * end for end in ends] if found else [None, None],
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=False,
        line={"color": color_of(style), "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    text = f"slope {found.slope:.3f}, r = {found.r:.4f}" if found else "no line: all values are equal"
    return trace, f"{percent(line['label_fraction'].iloc[0])}: {text}"
