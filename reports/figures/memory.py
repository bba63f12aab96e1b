"""Pretraining with and without a memory of negatives (the paper's Figure D.1)."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import of_labels, panels
from reports.figures.points import on_imagenet, reference_layer
from reports.figures.style import empty_figure, plain
from reports.scaling import SIZE
from reports.tables import best_points

TITLE = "Pretraining with and without a memory of negatives"
LINEAR = "linear evaluation"


def memory_gain(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure D.1: top-1 of each architecture pretrained with and without memory, one panel for linear evaluation (with
    most labels) and one for fine-tuning at each label fraction."""
    lines = _lines(trials)
    if lines.empty:
        need = "It needs the stages linear or finetune with `pretrain.memory.size` both 0 and above."
        return empty_figure(TITLE, need, "imagenet-figure-d1")
    models = lines.sort_values("parameters")["architecture"].unique()
    axis = {
        "title_text": "architecture",
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [plain(model) for model in models],
    }
    paper = _lines(reference_layer(trials, reference))
    fractions = sorted(lines["label_fraction"].unique())
    order = [LINEAR, *(_tuned(fraction) for fraction in fractions)]
    return panels(lines, paper, order=order, x="model", title=TITLE, axis=axis, shown=on_imagenet(trials))


def _lines(trials: pd.DataFrame) -> pd.DataFrame:
    """Points of the architectures that have both, in the order of their size."""
    parts = []
    for stage in ("linear", "finetune"):
        points = best_points(trials[trials["memory"].notna()], stage, [*SIZE, "memory"])
        both = points.groupby(list(SIZE))["memory"].transform("nunique") == 2
        parts.append(points[both.astype(bool)])
    linear, tuned = parts
    linear = linear[linear["label_fraction"] == linear["label_fraction"].max()].assign(panel=LINEAR)
    both_stages: pd.DataFrame = pd.concat([linear, tuned.assign(panel=tuned["label_fraction"].map(_tuned))])
    points = both_stages.sort_values("parameters", kind="stable")
    memory = points["memory"].astype("boolean")
    return points.assign(
        model=points["architecture"].map(plain),
        series=memory.map({True: "with memory", False: "without memory"}),
        style=memory.map({True: 0, False: 1}),
        dash=memory.map({True: 0, False: 1}),
    )


def _tuned(fraction: float) -> str:
    return f"fine-tuned, {of_labels(fraction)}"
