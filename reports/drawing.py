"""The catalog's figures of a report's results, for the page and for images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import plotly.graph_objects as go

from reports import paper
from reports.figures.catalog import FIGURES, Entry, Sources
from reports.results import Group
from reports.tables import history


@dataclass(frozen=True)
class Drawn:
    """A figure of one group of records; `name` is unique in the report, `need` says what would fill an empty one."""

    name: str
    entry: Entry
    figure: go.Figure

    @property
    def title(self) -> str:
        return str(self.figure.layout.meta["title"])

    @property
    def caption(self) -> str:
        """How to read it, and what must be said of these results."""
        caveat = str(self.figure.layout.meta.get("caveat", ""))
        return f"{self.entry.reading} Mind: {caveat}." if caveat else self.entry.reading

    @property
    def need(self) -> str:
        return str(self.figure.layout.meta.get("need", ""))


def figures_of(group: Group) -> Iterator[Drawn]:
    """All figures of the catalog, in its order, with the paper's numbers as a reference layer where it gives them."""
    sources = Sources(
        trials=group.trials,
        reference=paper.table(),
        pretraining=history(group.records, "pretrain"),
        fits=group.fits,
        efficiency=group.efficiency,
        fronts=group.fronts,
        currency=group.prices.currency,
    )
    for entry in FIGURES:
        yield Drawn(entry.name + group.suffix, entry, entry.draw(sources))
