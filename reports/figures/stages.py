"""What each way of using labels reaches, side by side (the paper's Figures 4 and 6)."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import panels_by_fraction
from reports.figures.style import empty_figure, size_axis
from reports.scaling import SIZE
from reports.tables import best_points

TITLE = "Ways of using the labels, by model size"


def accuracy_by_stage(trials: pd.DataFrame) -> go.Figure:
    """Top-1 against encoder parameters (log) by label fraction, one line a method; self-distillation is one."""
    self_taught = (trials["teacher_architecture"] == trials["architecture"]).fillna(False)
    methods = {
        "fine-tuned": ("finetune", trials),
        "supervised from scratch": ("supervised", trials),
        "distilled from another size": ("distill", trials[~self_taught]),
        "self-distilled": ("distill", trials[self_taught]),
        "linear evaluation": ("linear", trials),
    }
    lines = pd.concat(
        best_points(rows, stage, SIZE).assign(series=name, style=style, dash=style)
        for style, (name, (stage, rows)) in enumerate(methods.items())
    )
    lines = lines[lines["label_fraction"].notna()]
    if lines.empty:
        return empty_figure(TITLE, "It needs two or more of the stages finetune, linear, supervised and distill.")
    figure = panels_by_fraction(lines, "parameters", "encoder parameters", TITLE)
    return figure.update_xaxes(**size_axis(lines, room=0.3))
