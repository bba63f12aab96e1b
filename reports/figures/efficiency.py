"""Label efficiency: with how many times as many labels another model, or another method, reaches the same accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.comparable import joined
from reports.figures.facets import of_labels
from reports.figures.points import custom_data, error_bars, fraction_styles, some_ids
from reports.figures.style import COLORS, SYMBOLS, empty_figure, finish, percent, plain

TITLE = "Label efficiency: labels that others need to be as good"
CENSORED = {"more than": "triangle-right", "at most": "triangle-left"}
SPREAD = 0.6  # of a row's height, over which the label fractions of one model are spread
ROW_HEIGHT = 14  # px a label fraction


def equivalent_labels(trials: pd.DataFrame, efficiency: pd.DataFrame) -> go.Figure:
    """How many times as many labels others need (log) to equal each fine-tuned model: the smallest model fine-tuned,
    and the same model trained supervised; one row a model, the smallest on top, one color a label fraction.

    `efficiency` is `efficiency.label_efficiency` of `trials`. Bars are 95 % intervals over seeds; without several
    seeds there is none and the marker is hollow. An arrow in place of a marker is censored: the other one was not
    trained with so many, or so few, labels.
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
    styles, named = fraction_styles(efficiency), set[float]()
    for column, stage in enumerate(stages, start=1):
        of_stage = efficiency[efficiency["reference_stage"] == stage]
        for fraction, style in styles.items():
            rows = of_stage[of_stage["label_fraction"] == fraction]
            if len(rows):
                offset = SPREAD * (0.5 - (style + 0.5) / len(styles))
                trace = _series(rows, [models.index(model) + offset for model in rows["architecture"]], style)
                figure.add_trace(trace.update(showlegend=fraction not in named), row=1, col=column)
                named.add(fraction)
    figure.add_vline(x=1, line={"width": 1.5, "dash": "dot", "color": COLORS[-1]})
    figure.update_xaxes(type="log", title_text="labels needed / labels used", exponentformat="none", dtick="D2")
    ticks = {"tickvals": list(range(len(models))), "range": [-0.6, len(models) - 0.4]}
    figure.update_yaxes(ticktext=[plain(model) for model in models], zeroline=False, **ticks)
    height = 150 + len(models) * (12 + ROW_HEIGHT * len(styles))
    caveat = joined(efficiency["caveat"])
    return finish(figure, TITLE, height=height, min_width=320 * len(stages), panel_titles=True, caveat=caveat)


def _panel(efficiency: pd.DataFrame, stage: str) -> str:
    if stage == "supervised":
        return "the same model supervised"
    references = efficiency.loc[efficiency["reference_stage"] == stage, "reference"]
    return f"{plain(references.iloc[0])} fine-tuned"


def _series(rows: pd.DataFrame, y: list[float], style: int) -> go.Scatter:
    symbol, color = SYMBOLS[style % len(SYMBOLS)], COLORS[style % len(COLORS)]
    known = rows["low_bound"] != "unknown"
    censored = rows["bound"].map(CENSORED)
    symbols = censored.fillna(symbol) + known.map({True: "", False: "-open"})
    name = of_labels(rows["label_fraction"].iloc[0])
    return go.Scatter(
        x=rows["factor"].tolist(),
        y=y,
        error_x=error_bars((rows["high"] - rows["factor"]).clip(lower=0), (rows["factor"] - rows["low"]).clip(lower=0)),
        name=name,
        legendgroup=name,
        mode="markers",
        marker={
            "symbol": symbols.tolist(),
            "size": [10 if uncensored else 13 for uncensored in censored.isna()],
            "opacity": 1,  # of several sizes the default is see-through
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
