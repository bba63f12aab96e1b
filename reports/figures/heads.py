"""Depth of the projection head, and the layer to fine-tune from (the paper's Figures 5, E.1 and E.2).

The paper plots these without printing their numbers, so they have no reference layer.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import of_labels, panels, panels_by_fraction
from reports.figures.points import fraction_axis, size_axis
from reports.figures.style import empty_figure
from reports.scaling import SIZE, has_selective_kernels
from reports.tables import best_points

PRESET = "imagenet-figure5"
PREFERRED_DEPTH = 3
NEED_LAYERS = "It needs the stage finetune over two or more values of `head_layer`."


def depth_and_layer(trials: pd.DataFrame) -> go.Figure:
    """Figure 5: top-1 against label fraction (log) by depth of the projection head, each from its best layer, and by
    the layer to fine-tune from.

    Of the architecture with most head settings, the smallest of these; layers of a head of `PREFERRED_DEPTH`, as in the
    paper, else of the deepest.
    """
    title = "Projection head: depth, and the layer to fine-tune from"
    points = _points(trials, ["head_depth", "head_layer"])
    depths, layers = _compared(points, "head_depth"), _compared(points, "head_layer", ["head_depth"])
    if depths.empty and layers.empty:
        return empty_figure(title, "It needs the stage finetune over `head_depth` or `head_layer`.", PRESET)
    model = _most_settings(pd.concat([depths, layers]))
    of_model = layers[layers["architecture"] == model]
    tried = set(of_model["head_depth"].dropna())
    parts = []
    if model in depths["architecture"].tolist():
        best = _compared(_points(trials[trials["architecture"] == model], ["head_depth"]), "head_depth")
        names = "head of " + best["head_depth"].astype("string") + " layers"
        parts.append(best.assign(panel="best layer of each depth", series=names, style=best["head_depth"] - 2, dash=0))
    if len(of_model):
        depth = PREFERRED_DEPTH if PREFERRED_DEPTH in tried else max(tried, default=pd.NA)
        kept = of_model[of_model["head_depth"] == depth] if tried else of_model
        names = "from layer " + kept["head_layer"].astype("string")
        panel = f"layers of a head of {depth}" if tried else "layers of the head"
        parts.append(kept.assign(panel=panel, series=names, style=kept["head_layer"] + 3, dash=kept["head_layer"]))
    lines = pd.concat(parts)
    return panels(
        lines,
        lines.iloc[:0],
        order=lines["panel"].unique().tolist(),
        x="label_fraction",
        title=f"{title} ({model})",
        axis={"title_text": "share of the labels", **fraction_axis(lines["label_fraction"].tolist())},
    )


def head_settings_by_size(trials: pd.DataFrame) -> go.Figure:
    """Figure E.1: top-1 against encoder parameters (log), one line a head depth and layer, one panel a label fraction,
    without and with selective kernels apart."""
    title = "Head settings by model size"
    points = _compared(_points(trials, ["head_depth", "head_layer"]), ["head_depth", "head_layer"])
    if points["architecture"].nunique() < 2:
        need = "It needs the stage finetune over two or more values of `head_layer` and of `architecture`."
        return empty_figure(title, need, PRESET)
    settings = points[["head_depth", "head_layer"]].fillna(0).apply(tuple, axis=1)
    order = sorted(settings.unique())
    selective = has_selective_kernels(points["architecture"])
    both = selective.nunique() > 1
    names = [f"{'head of ' + str(depth) + ', ' if depth else ''}layer {layer}" for depth, layer in settings]
    kernels = selective.map({True: ", selective kernels", False: ", plain"}) if both else ""
    lines = points.assign(
        panel=points["label_fraction"].map(of_labels) + kernels,
        series=names,
        style=settings.map(order.index),
        dash=settings.map(order.index),
    )
    rows = lines.assign(selective=selective).sort_values(["selective", "label_fraction"])
    return panels(
        lines,
        lines.iloc[:0],
        order=rows["panel"].unique().tolist(),
        x="parameters",
        title=title,
        axis={"title_text": "encoder parameters", **size_axis(lines, room=0.3)},
    )


def accuracy_by_head_layer(trials: pd.DataFrame) -> go.Figure:
    """Figure E.2: top-1 against head layer (0 is the encoder output) by label fraction, one line a model and head
    depth."""
    title = "Fine-tuning from each layer of the projection head"
    points = _compared(_points(trials, ["head_depth", "head_layer"]), "head_layer", ["head_depth"])
    if points.empty:
        return empty_figure(title, NEED_LAYERS, PRESET)
    models = points.sort_values("parameters")["architecture"].unique().tolist()
    depths = points["head_depth"].fillna(0)
    several = depths.nunique() > 1
    lines = points.assign(
        series=points["architecture"] + (", head of " + depths.astype("string") if several else ""),
        style=points["architecture"].map(models.index),
        dash=depths.map(sorted(depths.unique()).index),
    )
    axis = {"title_text": "head layer", "dtick": 1}
    return panels_by_fraction(lines, lines.iloc[:0], x="head_layer", title=title, axis=axis)


def _points(trials: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    points = best_points(trials, "finetune", [*SIZE, *settings])
    return points[points["head_layer"].notna() & points["label_fraction"].notna()]


def _compared(points: pd.DataFrame, settings: str | list[str], within: list[str] | None = None) -> pd.DataFrame:
    """The points of models and label fractions for which two or more values of `settings` were tried."""
    names = [settings] if isinstance(settings, str) else settings
    cells = points.groupby([*SIZE, *(within or [])], dropna=False)
    tried = pd.concat([cells[name].transform("nunique") > 1 for name in names], axis=1)
    return points[tried.any(axis=1)]


def _most_settings(points: pd.DataFrame) -> str:
    """The architecture with most pairs of head depth and layer; the smallest of several."""
    counts = points.drop_duplicates(["architecture", "head_depth", "head_layer"])
    tried = counts.groupby(["parameters", "architecture"]).size()
    return str(tried.sort_values(ascending=False, kind="stable").index.get_level_values("architecture")[0])
