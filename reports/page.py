"""The report as one HTML page that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from reports import paper, sections
from reports.answer import answer
from reports.figures.catalog import FIGURES
from reports.figures.scaling import accuracy_against_parameters
from reports.figures.style import DARK, LIGHT
from reports.markup import escape, paragraph, script_json, section
from reports.records import Failure, Problem, Record
from reports.tables import group_by_data, history, trials

ASSETS = Path(__file__).parent / "assets"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
FILTERS = ("stage", "architecture", "label_fraction", "seed")


@dataclass(frozen=True)
class StudyInfo:
    """What the report is about: the study's name, its question, and its planned trials (id -> what it is, e.g. its
    stage)."""

    name: str
    question: str
    planned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Comparable records and their tables; `suffix` keeps the names of several groups in one page apart."""

    records: Sequence[Record]
    trials: pd.DataFrame
    suffix: str
    title: str


def build_page(
    study: StudyInfo, records: Sequence[Record], failures: Sequence[Failure] = (), problems: Sequence[Problem] = ()
) -> str:
    """The whole report: answer, figures, all trials, failures and gaps, the paper's Table 1, provenance, cost.

    Records that may not stand in one table (other protocol or data) get their own answer and figures. Without any
    record the page says what would fill it. The page is a pure function of its arguments and loads nothing.
    """
    groups = _groups(records)
    done = {record.id for record in records}
    content = [
        _header(study, groups, done, failures, problems),
        *(part for group in groups for part in _figures(group)),
        _trial_section(groups),
        section("gaps", "Failed and missing", sections.failures_and_gaps(study.planned, done, failures, problems)),
        _paper_section(groups),
        *(_provenance_sections(group) for group in groups if group.records),
    ]
    return _document(study.name, "".join(content))


def _groups(records: Sequence[Record]) -> list[Group]:
    groups = group_by_data(records) or [[]]
    many = len(groups) > 1
    return [
        Group(group, trials(group), f"-{i + 1}" if many else "", f" ({_data_title(group[0])})" if many else "")
        for i, group in enumerate(groups)
    ]


def _data_title(record: Record) -> str:
    data = record.spec.data
    return f"{data.name}, {data.image_size} px, protocol {record.spec.protocol}, data {record.data.fingerprint[:8]}"


def _document(title: str, body: str) -> str:
    plotlyjs = get_plotlyjs()
    assert "</script" not in plotlyjs.lower()
    templates = {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json()}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{(ASSETS / 'page.css').read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main>{body}</main>\n{script_json('templates', templates)}<script>{plotlyjs}</script>\n"
        f"<script>{(ASSETS / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _header(
    study: StudyInfo, groups: Sequence[Group], done: set[str], failures: Sequence[Failure], problems: Sequence[Problem]
) -> str:
    notes = []
    if len(groups) > 1:
        notes.append(
            f"The records are of {len(groups)} data sets or protocols that cannot be compared: "
            "each has its own answer and figures."
        )
    answers = "".join(_answer(group) for group in groups)
    links = [
        *((f"{_slug(name)}{group.suffix}", f"{name}{group.title}") for group in groups for name, _ in _by_section()),
        *(("trials", "All trials"), ("gaps", "Failed and missing"), ("paper", "The paper's Table 1")),
        *((f"provenance{group.suffix}", f"Provenance and cost{group.title}") for group in groups if group.records),
    ]
    nav = "".join(f'<a href="#{escape(name)}">{escape(title)}</a>' for name, title in links)
    return (
        f'<header><p class="eyebrow">Label-efficiency study</p><h1>{escape(study.name)}</h1>'
        f"{paragraph(study.question, 'question') if study.question else ''}"
        f"{''.join(paragraph(note, 'warn') for note in notes)}{answers}"
        f'{_state(study, groups, done, failures, problems)}<nav aria-label="Sections">{nav}</nav></header>'
    )


def _answer(group: Group) -> str:
    sentences = "".join(paragraph(sentence) for sentence in answer(group.trials))
    return f'<div class="answer"><h2>Answer{escape(group.title)}</h2>{sentences}</div>'


def _state(
    study: StudyInfo, groups: Sequence[Group], done: set[str], failures: Sequence[Failure], problems: Sequence[Problem]
) -> str:
    planned = len(study.planned)
    finished = len(done & set(study.planned)) if planned else len(done)
    failed = len({failure.id for failure in failures} - done)
    missing = max(0, planned - finished - len({failure.id for failure in failures} & (set(study.planned) - done)))
    items = [
        (f"{finished:,} of {planned:,} planned trials finished" if planned else f"{finished:,} trials finished", "")
    ]
    items += [(f"{failed:,} failed", "warn")] if failed else []
    items += [(f"{missing:,} missing", "warn")] if missing else []
    items += [(f"{len(problems):,} left out as unreadable", "warn")] if problems else []
    for group in groups:
        if group.records:
            tests = group.records[0].data.test_images
            resolution = f": one is {100 / tests:.2g} points" if tests else ""
            items.append((f"{group.records[0].spec.data.name}, {tests:,} test images{resolution}", ""))
    return '<ul class="state">' + "".join(f'<li class="{kind}">{escape(text)}</li>' for text, kind in items) + "</ul>"


def _by_section() -> list[tuple[str, list[Any]]]:
    return [(name, list(entries)) for name, entries in groupby(FIGURES, key=lambda entry: entry.section)]


def _figures(group: Group) -> list[str]:
    tables = {"trials": group.trials, "pretraining": history(group.records, "pretrain")}
    return [
        section(
            f"{_slug(name)}{group.suffix}",
            f"{name}{group.title}",
            *(
                figure_html(entry.name + group.suffix, entry.draw(tables[entry.table]), entry.reading)
                for entry in entries
            ),
        )
        for name, entries in _by_section()
    ]


def figure_html(name: str, figure: go.Figure, reading: str) -> str:
    """One figure with its title as a heading and how to read it; its data for the page's script, without template and
    title."""
    content = json.loads(figure.to_json())
    layout = content["layout"]
    title, min_width = layout["meta"]["title"], layout["meta"]["min_width"]
    if "need" in layout["meta"]:
        return (
            f"<figure><h3>{escape(title)}</h3>{paragraph('No data yet. ' + layout['meta']['need'], 'empty')}</figure>"
        )
    layout = {key: value for key, value in layout.items() if key not in ("template", "title", "meta")}
    layout["margin"] = {**layout["margin"], "t": 48}
    data = script_json(f"data-{name}", {"data": content["data"], "layout": layout})
    return (
        f'<figure><h3>{escape(title)}</h3><div class="plot-frame"><div class="plot" id="{escape(name)}" role="img" '
        f'aria-label="{escape(title)}" style="min-width:{min_width}px;height:{layout["height"]}px"></div></div>'
        f"<figcaption>{escape(reading)}</figcaption></figure>{data}"
    )


def _trial_section(groups: Sequence[Group]) -> str:
    content = sections.trial_rows(pd.concat([group.trials for group in groups], ignore_index=True))
    names = content["names"]
    selects = "".join(
        f'<label>{escape(content["columns"][names.index(name)]["name"])}<select data-column="{names.index(name)}">'
        '<option value="">all</option></select></label>'
        for name in FILTERS
        if name in names
    )
    return section(
        "trials",
        "All trials",
        '<div class="filters"><label>search<input id="search" type="search" placeholder="e.g. r50 distill"></label>'
        f"{selects}</div>",
        '<p id="shown" aria-live="polite"></p><noscript><p>This table and the figures need JavaScript.</p></noscript>',
        '<div class="scroll" tabindex="0"><table id="trial-table"><thead></thead><tbody></tbody></table></div>',
        '<button class="more" id="more" type="button" hidden>Show more</button>',
        script_json("trial-rows", content),
    )


def _paper_section(groups: Sequence[Group]) -> str:
    own = [
        sections.table_1(group.trials, f"This study{group.title}, top-1, mean ± standard deviation over n seeds")
        for group in groups
        if group.records
    ]
    reference = paper.table_1()
    figure = figure_html(
        "paper-accuracy-against-parameters",
        accuracy_against_parameters(reference),
        "The paper's fine-tuned models on ImageNet on the same axes as this study's first figure; every point is "
        "hollow because the paper states neither seeds nor a spread. Dashed lines have selective kernels.",
    )
    tables = "".join([*own, sections.table_1(reference, "The paper (ImageNet), top-1")])
    return section("paper", "The paper's Table 1 beside this study's", tables, figure)


def _provenance_sections(group: Group) -> str:
    return section(
        f"provenance{group.suffix}",
        f"Provenance and cost{group.title}",
        sections.provenance(group.records),
        sections.cost(group.records),
    )


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
