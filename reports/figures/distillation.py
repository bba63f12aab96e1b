"""How to distill, and by whom (the paper's Figures F.1 and F.2)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from reports.figures.facets import by_fraction, of_labels, panels, panels_by_fraction
from reports.figures.points import on_imagenet, reference_layer
from reports.figures.style import empty_figure, percent, plain
from reports.tables import best_points

PRESET = "imagenet-figure-f1"
PAIRS = 3  # of student and teacher that have panels of their own
SETTINGS = ("temperature", "distillation_weight")
PAIR = ["architecture", "parameters", "teacher_architecture", "teacher_stage", "label_fraction"]


def weight_and_temperature(trials: pd.DataFrame) -> go.Figure:
    """Figure F.1: top-1 of students by label fraction, against the weight of the distillation loss with one line a
    temperature, or, where a single weight was tried, against temperature (log).

    Of the pairs of student and teacher with most weights and temperatures, the smallest students first: a panel each
    where there are up to `PAIRS`, else the first alone; against temperature one line each. Students that learned from
    the labelled images alone are left out, and so are the paper's own: it does not state the weight of its mixed
    losses, so there is no place for them on this axis.
    """
    title = "Distillation weight and temperature"
    wanted = (trials["distill_images"] != "labelled").fillna(True) & (trials["source"] != "paper")
    points = best_points(trials[wanted], "distill", [*PAIR, *SETTINGS])
    points = points[points["label_fraction"].notna()]
    points = points.assign(
        pair=points["architecture"] + " taught by " + points["teacher_architecture"].fillna("an unknown teacher")
    )
    points = points[points.groupby("pair")[list(SETTINGS)].transform("nunique").max(axis=1) > 1]
    if points.empty:
        need = "It needs the stage distill over two or more values of `temperature` or `distill.distillation_weight`."
        return empty_figure(title, need, PRESET)
    tried = points.drop_duplicates(["pair", *SETTINGS]).groupby("pair")["pair"].transform("size")
    sizes = points.assign(tried=tried.reindex(points.index)).sort_values("parameters", kind="stable")
    pairs = sizes.sort_values("tried", ascending=False, kind="stable")["pair"].unique().tolist()
    temperatures = sorted(points["temperature"].dropna().unique())
    if points["distillation_weight"].nunique() > 1:
        return _by_weight(points, pairs, temperatures, title)
    number = points["pair"].map(pairs.index)
    lines = points.assign(series=points["pair"], style=number, dash=0)
    ticks = [f"{value:g}" for value in temperatures]
    axis: dict[str, Any] = {"title_text": "temperature", "type": "log", "tickvals": temperatures, "ticktext": ticks}
    return panels_by_fraction(lines, lines.iloc[:0], x="temperature", title=title, axis=axis)


def _by_weight(points: pd.DataFrame, pairs: list[str], temperatures: list[float], title: str) -> go.Figure:
    """Panels by pair and label fraction; how many pairs are not shown is in the title."""
    shown = pairs if len(pairs) <= PAIRS else pairs[:1]
    if len(shown) < len(pairs):
        title += f" ({plain(shown[0])}, one of {len(pairs)} such pairs)"
    lines = points[points["pair"].isin(shown)].sort_values(["label_fraction", "parameters"])
    fractions = lines["label_fraction"].map(of_labels)
    lines = lines.assign(
        panel=fractions if len(shown) == 1 else lines["pair"] + ", " + lines["label_fraction"].map(percent),
        series="temperature " + lines["temperature"].map("{:g}".format),
        style=lines["temperature"].map(temperatures.index),
        dash=lines["temperature"].map(temperatures.index),
    )
    axis = {"title_text": "weight of the distillation loss"}
    order = lines["panel"].unique().tolist()
    return panels(lines, lines.iloc[:0], order=order, x="distillation_weight", title=title, axis=axis)


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
