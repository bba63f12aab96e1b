"""What the trials cost."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.style import PATTERNS, STAGES, color_of, empty_figure, finish, plain

TITLE = "Device time by stage and architecture"


def device_seconds(trials: pd.DataFrame) -> go.Figure:
    """Device time of all trials, one stacked bar an architecture (smallest first), one color and pattern a stage."""
    known = trials[trials["device_seconds"].notna()]
    if known.empty:
        return empty_figure(TITLE, "It needs trials that state their device time, as those of a launch do.", "digits")
    total = known.groupby("architecture")["device_seconds"].sum().max()
    unit, size = ("hours", 3600) if total >= 2 * 3600 else ("minutes", 60) if total >= 120 else ("seconds", 1)
    models = known.sort_values("parameters")["architecture"].unique().tolist()
    figure = go.Figure()
    for style, stage in enumerate(STAGES):
        of_stage = known[known["stage"] == stage].groupby("architecture")["device_seconds"].agg(["sum", "count"])
        present = [model for model in models if model in of_stage.index]
        if present:
            sums, counts = of_stage.loc[present, "sum"].tolist(), of_stage.loc[present, "count"].tolist()
            figure.add_bar(
                x=[plain(model) for model in present],
                y=[seconds / size for seconds in sums],
                name=STAGES[stage],
                marker={
                    "color": color_of(style),
                    "pattern": {"shape": PATTERNS[style], "fillmode": "overlay", "fgcolor": "#ffffff", "size": 9},
                },
                hovertext=[
                    f"<b>{plain(model)}, {STAGES[stage]}</b><br>{seconds / size:.3g} device {unit} in {count} trials"
                    for model, seconds, count in zip(present, sums, counts, strict=True)
                ],
                hoverinfo="text",
                customdata=[[model, None, stage] for model in present],
            )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(
        title_text="architecture",
        type="category",
        categoryorder="array",
        categoryarray=[plain(model) for model in models],
    )
    figure.update_yaxes(title_text=f"device {unit}")
    return finish(figure, TITLE, height=400)
