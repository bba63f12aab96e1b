"""How to distill, and by whom (the paper's Figures F.1 and F.2)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import by_fraction, panels_by_fraction
from reports.figures.points import on_imagenet, reference_layer
from reports.figures.style import empty_figure, plain
from reports.tables import best_points

PRESET = "imagenet-figure-f1"
PAIR = ["architecture", "parameters", "teacher_architecture", "teacher_stage", "label_fraction"]


def weight_and_temperature(trials: pd.DataFrame) -> go.Figure:
    """Figure F.1: top-1 of students by label fraction, against the weight of the distillation loss with one line a
    temperature, or, where a single weight was tried, against temperature (log).

    Students that learned from the labelled images alone are left out, and so are the paper's own: it does not state
    the weight of its mixed losses, so there is no place for them on this axis.
    """
    title = "Distillation weight and temperature"
    wanted = (trials["distill_images"] != "labelled").fillna(True) & (trials["source"] != "paper")
    points = best_points(trials[wanted], "distill", [*PAIR, "temperature", "distillation_weight"])
    points = points[points["label_fraction"].notna()]
    weights, temperatures = points["distillation_weight"].nunique(), points["temperature"].nunique()
    if max(weights, temperatures) < 2:
        need = "It needs the stage distill over two or more values of `temperature` or `distill.distillation_weight`."
        return empty_figure(title, need, PRESET)
    pairs = points["architecture"] + " taught by " + points["teacher_architecture"].fillna("an unknown teacher")
    models = pairs[points["parameters"].sort_values(kind="stable").index].unique().tolist()
    values = sorted(points["temperature"].dropna().unique())
    axis: dict[str, Any]
    if weights > 1:
        single = f", {plain(models[0])}" if len(models) == 1 else ""
        names = "temperature " + points["temperature"].map("{:g}".format) + ("" if single else ", " + pairs)
        style, dash = points["temperature"].map(values.index), pairs.map(models.index)
        x, axis = "distillation_weight", {"title_text": f"weight of the distillation loss{single}"}
    else:
        names, style, dash, x = pairs, pairs.map(models.index), pairs.map(lambda pair: 0), "temperature"
        ticks = [f"{value:g}" for value in values]
        axis = {"title_text": "temperature", "type": "log", "tickvals": values, "ticktext": ticks}
    lines = points.assign(series=names, style=style, dash=dash)
    return panels_by_fraction(lines, lines.iloc[:0], x=x, title=title, axis=axis)


def student_against_teacher(trials: pd.DataFrame, reference: pd.DataFrame) -> go.Figure:
    """Figure F.2: top-1 of students against their teachers', both in percent and means over seeds, by label fraction;
    one point a student and teacher setting, one color a student."""
    lines = _taught(trials)
    title = "Teacher and student"
    if lines.empty:
        need = "It needs the stage distill, best with several teachers of the same student."
        return empty_figure(title, need, PRESET)
    figure = panels_by_fraction(
        lines,
        _taught(reference_layer(trials, reference)),
        x="teacher",
        title=title,
        axis={"title_text": "teacher, top-1 (%)"},
        shown=on_imagenet(trials),
        y_title="student, top-1 (%)",
    )
    return figure.for_each_trace(lambda trace: trace.update(mode="markers"))


def _taught(trials: pd.DataFrame) -> pd.DataFrame:
    """Best points of every student and variant of teacher, students of the labelled images alone left out."""
    variants = trials.set_index("id")["variant"]
    wanted = (trials["distill_images"] != "labelled").fillna(True) & trials["teacher_top1"].notna()
    students = trials[wanted & (trials["stage"] == "distill")]
    students = students.assign(taught_by=variants.reindex(students["parent"]).to_numpy())
    points = by_fraction(best_points(students, "distill", [*PAIR, "taught_by"]))
    teachers = trials.set_index("id")["teacher_top1"]
    known = [100 * teachers.loc[ids] for ids in points["ids"]]
    models = points.sort_values("parameters", kind="stable")["architecture"].unique().tolist()
    return points.assign(
        teacher=[values.mean() for values in known],
        x_error=pd.array([values.std() for values in known], dtype="float64"),
        note=[f"teacher {values.mean():.1f} %" for values in known],
        series="student " + points["architecture"],
        style=points["architecture"].map(models.index),
        dash=0,
    )
