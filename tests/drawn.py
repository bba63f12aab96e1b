"""Figures of known records, and how tests find their traces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd
import plotly.graph_objects as go

import synthetic
from reports import paper
from reports.efficiency import label_efficiency
from reports.figures.catalog import FIGURES, Sources
from reports.fits import fits
from reports.pareto import candidates, fronts
from reports.records import Record
from reports.tables import history, trials

RECORDS = synthetic.study()
ABLATIONS = synthetic.ablations()
NONE = trials([])
PAPERS = {  # percent with 1 %, 10 % and 100 % of the labels: Table 1, plain models then those with selective kernels
    "r50": (57.9, 68.4, 76.3),
    "r101": (62.1, 71.4, 78.2),
    "r152": (64.0, 73.0, 79.3),
    "r50w2": (66.3, 73.9, 79.1),
    "r101w2": (69.1, 75.8, 80.7),
    "r152w2": (70.2, 76.6, 81.1),
    "r50sk": (64.5, 72.1, 78.7),
    "r101sk": (68.3, 75.1, 80.6),
    "r152sk": (70.0, 76.5, 81.3),
    "r50w2sk": (70.6, 77.0, 81.3),
    "r101w2sk": (73.2, 78.8, 82.4),
    "r152w2sk": (74.2, 79.4, 82.9),
    "r152w3sk": (74.9, 80.1, 83.1),
}
PLAIN = [name for name in PAPERS if not name.endswith("sk")]
SELECTIVE = [name for name in PAPERS if name.endswith("sk")]


def sources(records: Sequence[Record], reference: pd.DataFrame) -> Sources:
    table = trials(records)
    return Sources(
        trials=table,
        reference=reference,
        pretraining=history(records, "pretrain"),
        fits=fits(table),
        efficiency=label_efficiency(table),
        fronts=fronts(candidates(table)),
    )


@cache
def known(name: str) -> tuple[Sources, list[go.Figure]]:
    """All figures of a set of records, with what they were drawn from; made once."""
    records, reference = {
        "study": (RECORDS, paper.table()),
        "ablations": (ABLATIONS, paper.table()),
        "paper": (paper.records(), NONE),
        "none": ([], paper.table()),
    }[name]
    found = sources(records, reference)
    return found, [entry.draw(found) for entry in FIGURES]


def named(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name.replace(" %", "\u00a0%")]


def in_panel(figure: go.Figure, title: str) -> list[go.Scatter]:
    """Traces of the panel under a title."""
    title = title.replace(" %", "\u00a0%")
    (place,) = (note.x for note in figure.layout.annotations if note.text == title)
    for trace in figure.data:
        domain = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"].domain
        if math.isclose(sum(domain) / 2, place, abs_tol=1e-6):
            trace.meta = title
    return [trace for trace in figure.data if trace.meta == title]


def top1(**wanted: object) -> list[float]:
    """Accuracies in percent of the records whose specification or settings have these values."""
    return [
        100 * record.metrics["top1"]
        for record in RECORDS
        if all({**record.spec.settings, **dict(record.spec)}.get(key) == value for key, value in wanted.items())
    ]


def own(trial_id: str) -> float:
    """Accuracy in percent of one of the ablations."""
    (record,) = (record for record in ABLATIONS if record.id == trial_id)
    return 100 * record.metrics["top1"]


def points_of(figure: go.Figure) -> list[dict[str, Any]]:
    return [
        {"id": text, "data": data}
        for trace in figure.data
        if isinstance(trace, go.Scatter) and "markers" in (trace.mode or "") and trace.hovertext is not None
        for text, data in zip(trace.hovertext, trace.customdata, strict=True)
    ]


def size(model: str) -> int:
    return int(paper.table().set_index("architecture").loc[model, "parameters"].iloc[0])
