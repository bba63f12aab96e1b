"""From which layer of the projection head to fine-tune (the paper's Figures 5b, E.1 and E.2)."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import panels_by_fraction
from reports.figures.style import empty_figure
from reports.tables import best_points

TITLE = "Fine-tuning from each layer of the projection head"


def accuracy_by_head_layer(trials: pd.DataFrame) -> go.Figure:
    """Top-1 against head layer (0 is the encoder output) by label fraction, one line a model and head depth."""
    by = ["architecture", "parameters", "label_fraction", "head_depth", "head_layer"]
    points = best_points(trials, "finetune", by)
    points = points[points["head_layer"].notna()]
    if points["head_layer"].nunique() < 2:
        return empty_figure(TITLE, "It needs the stage finetune over two or more values of `head_layer`.")
    models = points.sort_values("parameters")["architecture"].unique().tolist()
    depths = points["head_depth"].fillna(0)
    several = depths.nunique() > 1
    lines = points.assign(
        series=points["architecture"] + (", head of " + depths.astype("string") if several else ""),
        style=points["architecture"].map(models.index),
        dash=depths.map(sorted(depths.unique()).index),
    )
    figure = panels_by_fraction(lines, "head_layer", "head layer", TITLE)
    return figure.update_xaxes(dtick=1)
