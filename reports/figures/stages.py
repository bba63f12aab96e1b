"""What each way of using labels reaches, side by side (the paper's Figures 2 and 6)."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import WHOLE, by_fraction, of_labels, panels
from reports.figures.points import (
    PAPER_COLOR,
    custom_data,
    fraction_axis,
    on_imagenet,
    reference_layer,
    size_axis,
)
from reports.figures.style import empty_figure, percent, plain
from reports.paper import other_methods
from reports.scaling import SIZE, has_selective_kernels, size_points
from reports.tables import best_points

PRESET = "imagenet-table3"


def accuracy_by_stage(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure 6: top-1 against encoder parameters (log) by label fraction, one line a method; self-distillation is one,
    and supervised training with all labels stands in every panel."""
    lines = _methods(trials)
    title = "Ways of using the labels, by model size"
    if lines["series"].nunique() < 2:
        need = "It needs two or more of the stages finetune, linear, supervised and distill."
        return empty_figure(title, need, "imagenet-table3")
    return panels(
        lines,
        _methods(reference_layer(trials, reference)),
        order=[of_labels(fraction) for fraction in sorted(lines["label_fraction"].unique())],
        x="parameters",
        title=title,
        axis={"title_text": "encoder parameters", **size_axis(lines, room=0.3)},
        shown=on_imagenet(trials),
    )


def small_and_big(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure 2: top-1 with few labels of the smallest and the biggest model, fine-tuned or distilled, whichever is
    better; beside supervised training of the smallest, and, on ImageNet, what other methods had reached before."""
    lines = _small_and_big(trials)
    title = "Few labels: smallest and biggest model, and supervised training"
    if lines.empty:
        need = "It needs the stages finetune or distill with a `label_fraction` below 1."
        return empty_figure(title, need, "imagenet-table3")
    paper, shown = _small_and_big(reference_layer(trials, reference)), on_imagenet(trials)
    axis = {"title_text": "share of the labels", **fraction_axis(lines["at"].tolist())}
    figure = panels(lines, paper, order=[WHOLE], x="at", title=title, axis=axis, shown=shown)
    return figure.add_trace(_previous_best(shown)) if shown or len(paper) else figure


def _methods(trials: pd.DataFrame) -> pd.DataFrame:
    """Best points of each method as lines, one panel a label fraction."""
    self_taught = (trials["teacher_architecture"] == trials["architecture"]).fillna(False)
    widely = (trials["distill_images"] != "labelled").fillna(True)
    methods = {
        "fine-tuned": ("finetune", trials),
        "supervised": ("supervised", trials),
        "distilled from another size": ("distill", trials[widely & ~self_taught]),
        "self-distilled": ("distill", trials[widely & self_taught]),
        "linear evaluation": ("linear", trials),
    }
    lines = by_fraction(
        pd.concat(
            best_points(rows, stage, SIZE).assign(series=name, style=style, dash=style)
            for style, (name, (stage, rows)) in enumerate(methods.items())
        )
    )
    lines = lines.assign(family=has_selective_kernels(lines["architecture"]))
    full = lines[(lines["series"] == "supervised") & (lines["label_fraction"] == 1)]
    full = full.assign(series="supervised, all labels", style=5, dash=2)
    few = [panel for panel in lines["panel"].unique() if panel != of_labels(1)]
    found: pd.DataFrame = pd.concat([lines, *(full.assign(panel=panel) for panel in few)])
    return found


def _small_and_big(trials: pd.DataFrame) -> pd.DataFrame:
    """Lines over label fractions below 1, in the column `at`."""
    widely = trials[(trials["distill_images"] != "labelled").fillna(True)]
    tried = pd.concat([size_points(widely, "finetune"), size_points(widely, "distill")])
    tried = tried[tried["label_fraction"] < 1].sort_values(["n", "mean"], ascending=False, kind="stable")
    best = tried.drop_duplicates(["architecture", "label_fraction"]).sort_values("parameters", kind="stable")
    if best.empty:
        return best.assign(at=[], series=[], style=[], dash=[], panel=[])
    small, big = best["architecture"].iloc[0], best["architecture"].iloc[-1]
    supervised = size_points(trials, "supervised")
    supervised = supervised[supervised["architecture"] == small]
    few, full = (supervised[supervised["label_fraction"] < 1], supervised[supervised["label_fraction"] == 1])
    fractions = sorted(best["label_fraction"].unique())
    parts = [
        best[best["architecture"] == small].assign(series=f"{small}, pretrained", style=0, dash=0),
        few.assign(series=f"{small}, supervised", style=1, dash=0),
        *(full.assign(series=f"{small}, supervised, all labels", style=5, dash=1, at=f) for f in fractions),
    ]
    if big != small:
        parts.append(best[best["architecture"] == big].assign(series=f"{big}, pretrained", style=2, dash=0))
    lines: pd.DataFrame = pd.concat(
        [part if "at" in part else part.assign(at=part["label_fraction"]) for part in parts]
    )
    return lines.assign(panel=WHOLE)


def _previous_best(shown: bool) -> go.Scatter:
    """The best of the other methods in the paper's Table 3 at each label fraction, on ImageNet."""
    known = other_methods().dropna(subset="top1")
    known = known[known["in_table_3"]].sort_values("top1").drop_duplicates("label_fraction", keep="last")
    known = known.sort_values("label_fraction")
    return go.Scatter(
        x=known["label_fraction"].tolist(),
        y=(100 * known["top1"]).tolist(),
        name="best method before (ImageNet)",
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 11, "color": PAPER_COLOR, "line": {"width": 2}},
        hovertext=[
            f"<b>{plain(row['method'])}, {plain(row['architecture'])}, {percent(row['label_fraction'])} of the "
            f"labels</b><br>top-1 {100 * row['top1']:.1f}\u00a0%, as the paper's Table 3 reports it"
            for row in known.to_dict("records")
        ],
        hoverinfo="text",
        customdata=custom_data(known[["label_fraction"]]),
        visible=True if shown else "legendonly",
    )
