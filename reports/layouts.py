"""The paper's Tables 1, 2, 3, G.1 and G.2 as heads and rows of text: this study's results beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd

from reports.figures.points import PAPER
from reports.figures.style import STAGES, accuracy, amount, percent
from reports.intervals import values_of
from reports.paper import other_methods, table
from reports.scaling import SIZE
from reports.tables import best_points

TableNumber = Literal["1", "2", "3", "G.1", "G.2"]
NUMBERS: tuple[TableNumber, ...] = get_args(TableNumber)
STUDY = "this study"
GAP = "\u2013"
OF_TABLE_1, OF_TABLE_3 = "SimCLRv2, Tables 1 and G.1", "SimCLRv2, Tables 3 and G.2"  # `study` of the paper's trials
COMPARED = ("finetune", "linear", "supervised")
METRICS = {"top1": "top-1", "top5": "top-5"}
MIXED = {
    ("labelled", True): "labels, and distillation on the labelled images",
    ("all", True): "labels, and distillation on all images",
    ("labelled", False): "distillation alone, on the labelled images",
    ("all", False): "distillation alone, on all images",
}
"""Methods of Table 2: the images that a student learned from, and whether labels were in its loss."""


MODEL = ("architecture", "depth", "width", "SK", "parameters", "source")
METHOD = ("method", "architecture", "source")
OF_STAGES = "fine-tuning, linear evaluation and supervised training"
FEW = "Few labels: supervised training, distilled models and other methods"
HEADS: dict[TableNumber, tuple[str, tuple[str, ...], str]] = {
    "1": (f"Top-1 of {OF_STAGES}", MODEL, "It needs one of the stages finetune, linear and supervised."),
    "2": (
        "Distillation with and without labels and unlabelled images, top-1",
        ("method", "student", "teacher", "source"),
        "It needs the stage distill with several values of `distill.distillation_weight` or `distill.images`, "
        "as in study/presets/imagenet-table2.yaml.",
    ),
    "3": (FEW, METHOD, "It needs the stages supervised or distill with a `label_fraction` below 1."),
    "G.1": (f"Top-5 of {OF_STAGES}", MODEL, "It needs one of the stages finetune, linear and supervised."),
    "G.2": (FEW, METHOD, "It needs the stages supervised or distill with a `label_fraction` below 1."),
}
"""Title of each table, the names of its first columns, and what would fill it."""


@dataclass(frozen=True)
class Layout:
    """One table as text; `numeric` are the columns that hold numbers, `need` says what would add rows of this study
    ("" if it has some)."""

    number: TableNumber
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...]
    need: str


class TableCell(NamedTuple):
    """One number of a table: the names of its row, the key by which its column is placed, the column's name."""

    row: tuple[str, ...]
    place: tuple[float, ...]
    column: str
    text: str


def table_rows(number: TableNumber, trials: pd.DataFrame, reference: pd.DataFrame) -> Layout:
    """One of the paper's tables with the rows of `trials` and those of `reference`, each row naming its source.

    Both are tables of `tables.trials`; `reference` is `paper.table()`, or an empty one. Where `trials` are the
    paper's own, they stand alone. Accuracies are in percent, mean ± standard deviation over seeds with their number.
    """
    is_paper = bool((trials["source"] == "paper").any())
    title, names, need = HEADS[number]
    cells = _cells_of(number, PAPER, trials) if is_paper else _cells_of(number, STUDY, trials)
    if not is_paper:
        cells = [*cells, *(_cells_of_paper(number) if reference is table() else _cells_of(number, PAPER, reference))]
    here = any(cell.row[-1] != PAPER for cell in cells) or is_paper
    return _assemble(number, title, names, cells, "" if here else need)


def _cells_of(number: TableNumber, source: str, trials: pd.DataFrame) -> list[TableCell]:
    if number == "2":
        return list(_losses(source, trials))
    if number in ("1", "G.1"):
        return list(_models(source, trials, "top1" if number == "1" else "top5"))
    return list(_few_labels(source, trials, number == "G.2"))


@cache
def _cells_of_paper(number: TableNumber) -> list[TableCell]:
    return _cells_of(number, PAPER, table())


def _assemble(number: TableNumber, title: str, names: Sequence[str], cells: Sequence[TableCell], need: str) -> Layout:
    """Rows in the order of their first cell, columns by their place."""
    columns = {cell.place: cell.column for cell in sorted(cells, key=lambda cell: cell.place)}
    texts: dict[tuple[str, ...], dict[tuple[float, ...], str]] = {}
    for cell in cells:
        texts.setdefault(cell.row, {})[cell.place] = cell.text
    rows = tuple((*row, *(found.get(place, GAP) for place in columns)) for row, found in texts.items())
    numeric = tuple(range(len(names), len(names) + len(columns)))
    return Layout(number, title, (*names, *columns.values()), rows, numeric, need)


def _models(source: str, trials: pd.DataFrame, metric: str) -> Iterator[TableCell]:
    """Tables 1 and G.1: one row a model, in the order of size."""
    if source == PAPER:
        trials = trials[trials["study"] == OF_TABLE_1]
    points = pd.concat(best_points(trials, stage, SIZE).assign(place=i) for i, stage in enumerate(COMPARED))
    named = trials.drop_duplicates("architecture").set_index("architecture")
    for point in _records(points[points["label_fraction"].notna()].sort_values("parameters", kind="stable")):
        model, fraction = point["architecture"], point["label_fraction"]
        facts = named.loc[model]
        kernels = GAP if pd.isna(facts["selective_kernels"]) else "yes" if facts["selective_kernels"] else "no"
        row = (model, _known(facts["depth"]), _known(facts["width"], "×"), kernels, amount(point["parameters"]), source)
        column = f"{STAGES[point['stage']]}, {percent(fraction)}"
        yield TableCell(row, (point["place"], fraction), column, _text(trials, point["ids"], metric))


def _losses(source: str, trials: pd.DataFrame) -> Iterator[TableCell]:
    """Table 2: students of one teacher that differ in their loss, and the same model trained on the labels alone."""
    distilled = trials[(trials["stage"] == "distill") & trials["distill_images"].notna()]
    distilled = distilled.assign(mixed=distilled["distillation_weight"] < 1)
    by = ["architecture", "parameters", "teacher_architecture", "label_fraction", "distill_images", "mixed"]
    points = best_points(distilled, "distill", by).dropna(subset=["teacher_architecture", "label_fraction"])
    points = points.sort_values("parameters", kind="stable")
    methods = [MIXED[images, mixed] for images, mixed in zip(points["distill_images"], points["mixed"], strict=True)]
    points = points.assign(method=pd.array(methods, dtype="string"))
    compared = points[points.groupby(["architecture", "teacher_architecture"])["method"].transform("nunique") > 1]
    plain = best_points(trials[~trials["regularized"].fillna(False)], "supervised", SIZE)
    plain = plain[plain["label_fraction"].isin(compared["label_fraction"])].sort_values("parameters", kind="stable")
    for point in _records(plain[plain["architecture"].isin(compared["architecture"])]):
        yield from _by_fraction(("labels alone", point["architecture"], GAP, source), point, trials, ["top1"])
    for name in MIXED.values():
        for point in _records(compared[compared["method"] == name]):
            row = (name, point["architecture"], point["teacher_architecture"], source)
            yield from _by_fraction(row, point, trials, ["top1"])


def _few_labels(source: str, trials: pd.DataFrame, more: bool) -> Iterator[TableCell]:
    """Tables 3 and G.2: supervised baselines, other people's methods (`more` of them in G.2), distilled models."""
    if source == PAPER:
        trials = trials[trials["study"] == OF_TABLE_3]
    few = trials[trials["label_fraction"] < 1]
    for regularized, name in ((False, "supervised"), (True, "supervised, regularized")):
        chosen = few[few["regularized"].fillna(False) == regularized]
        for point in _records(best_points(chosen, "supervised", SIZE).sort_values("parameters", kind="stable")):
            yield from _by_fraction((name, point["architecture"], source), point, trials, METRICS)
    if source == PAPER and len(trials):
        yield from _others(more)
    widely = few[(few["distill_images"] != "labelled").fillna(True)]
    points = best_points(widely, "distill", [*SIZE, "teacher_architecture"])
    for point in _records(points.sort_values("parameters", kind="stable")):
        own = point["teacher_architecture"] == point["architecture"]
        name = "self-distilled" if own else f"distilled from {_known(point['teacher_architecture'])}"
        yield from _by_fraction((name, point["architecture"], source), point, trials, METRICS)


def _others(more: bool) -> Iterator[TableCell]:
    methods = other_methods()
    for row in _records(methods if more else methods[methods["in_table_3"]]):
        for metric in METRICS:
            name = f"{row['method']}{' (concurrent)' if row['concurrent'] else ''}"
            text = GAP if math.isnan(row[metric]) else accuracy(row[metric])
            yield TableCell((name, row["architecture"], PAPER), *_column(metric, row["label_fraction"]), text)


def _by_fraction(
    row: tuple[str, ...], point: dict[str, Any], trials: pd.DataFrame, metrics: Iterable[str]
) -> Iterator[TableCell]:
    for metric in metrics:
        yield TableCell(row, *_column(metric, point["label_fraction"]), _text(trials, point["ids"], metric))


def _column(metric: str, fraction: float) -> tuple[tuple[float, ...], str]:
    """Place and name of a column: top-1 before top-5, few labels before many."""
    return (float(list(METRICS).index(metric)), fraction), f"{METRICS[metric]}, {percent(fraction)}"


def _text(trials: pd.DataFrame, ids: Sequence[str], metric: str) -> str:
    """Mean and spread of a metric over the seeds of a point, a dash where none has it."""
    values = values_of(trials, [ids], metric)[0]
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return accuracy(values[0]) if len(values) else GAP
    return f"{accuracy(values.mean(), values.std(ddof=1))} (n\u00a0=\u00a0{len(values)})"


def _records(points: pd.DataFrame) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], points.to_dict("records"))


def _known(value: Any, unit: str = "") -> str:
    if pd.isna(value):
        return GAP
    return str(value) if isinstance(value, str) else f"{value:g}{unit}"
