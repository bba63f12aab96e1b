"""The report as one HTML page that opens without a network."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

from plotly.offline import get_plotlyjs

from reports import findings, sections
from reports.answer import answer
from reports.drawing import Drawn, figures_of
from reports.figures.style import DARK, LIGHT
from reports.markup import escape, in_paper, paragraph, script_json, section
from reports.results import Group, Results
from reports.running import PLACE, with_running
from reports.selections import chosen_section

ASSETS = Path(__file__).parent / "assets"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)
FILTERS = {"architecture": "architecture", "label_fraction": "labels", "stage": "stage"}
"""Dimensions of the filters, in the order of every point's customdata, and how they are called."""
RELOAD_SECONDS = 30


def build_page(results: Results) -> str:
    """The whole report: what runs now, answer, claims, figures, fits, tables beside the paper's, next experiment,
    trials, gaps, provenance and cost.

    Records that may not stand in one table (other protocol or data) get their own answer and figures. Without any
    record the page says what would fill it. The page is a pure function of its argument and loads nothing; while
    the study is unfinished it loads itself again every `RELOAD_SECONDS`, until its reader says no.
    """
    return with_running(build_template(results), results.running)


def build_template(results: Results) -> str:
    """The page without what runs now, which takes nearly all of its time; `running.with_running` adds that."""
    parts = [part for group in results.groups for part in _group_sections(group)]
    gaps = sections.failures_and_gaps(results)
    tail = [
        *(
            (f"chosen{group.suffix}", f"What was chosen{group.title}", chosen_section(group.records))
            for group in results.groups
            if any(record.selections for record in group.records)
        ),
        ("next", "The next experiment", findings.next_table(results.suggestions, bool(results.missing))),
        ("trials", "All trials", _trial_table(results)),
        ("gaps", "Failed and missing", gaps),
        *(
            (f"provenance{group.suffix}", f"Provenance and cost{group.title}", _provenance(group))
            for group in results.groups
            if group.records
        ),
    ]
    named = [*parts, *tail]
    nav = "".join(f'<a href="#{escape(name)}">{escape(title.partition(" (")[0])}</a>' for name, title, _ in named)
    body = "".join(section(name, title, content) for name, title, content in named)
    return _document(results.study.name, f"{_header(results, nav)}{PLACE}{_filters()}{body}")


def _group_sections(group: Group) -> list[tuple[str, str, str]]:
    """Name, title and content of the sections that one group of comparable records has for itself."""
    below = {
        "Fits": findings.fits_table(group.fits),
        "Label efficiency": findings.efficiency_tables(group.efficiency),
    }
    found = {"Claims": findings.scoreboard(group.claims)}
    for title, figures in groupby(figures_of(group), key=lambda drawn: drawn.entry.section):
        found[title] = "".join(map(figure_html, figures)) + below.get(title, "")
    found["The paper's tables"] = sections.paper_tables(group.trials)
    return [(_slug(title) + group.suffix, title + group.title, content) for title, content in found.items()]


def _document(title: str, body: str) -> str:
    plotlyjs = get_plotlyjs()
    assert "</script" not in plotlyjs.lower()
    templates = {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json()}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{(ASSETS / 'page.css').read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main>{body}</main>\n{script_json('templates', templates)}<script>{plotlyjs}</script>\n"
        f"<script>{(ASSETS / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _header(results: Results, nav: str) -> str:
    groups = results.groups
    apart = (
        f"The records are of {len(groups)} data sets or protocols that cannot be compared: each has its own answer, "
        "claims and figures."
    )
    answers = "".join(
        f'<div class="answer"><h2>Answer{escape(group.title)}</h2>{"".join(map(paragraph, answer(group.trials)))}</div>'
        for group in groups
    )
    return (
        f'<header><p class="eyebrow">Label-efficiency study</p><h1>{escape(results.study.name)}</h1>'
        f"{paragraph(results.study.question, 'question') if results.study.question else ''}"
        f"{paragraph(apart, 'warn') if len(groups) > 1 else ''}{answers}{_state(results)}"
        f'<nav aria-label="Sections">{nav}</nav></header>'
    )


def _state(results: Results) -> str:
    planned = f" of {len(results.study.planned):,} planned" if results.study.planned else ""
    items = [(f"{results.finished:,}{planned} trials finished", "")]
    items += [(f"{len(results.failed):,} failed", "warn")] if results.failed else []
    items += [(f"{len(results.missing):,} missing", "warn")] if results.missing else []
    items += [(f"{len(results.problems):,} left out as unreadable", "warn")] if results.problems else []
    for group in results.groups:
        if group.records:
            tests = group.records[0].data.test_images
            resolution = f": one is {100 / tests:.2g} points" if tests else ""
            items.append((f"{group.records[0].spec.data.name}, {tests:,} test images{resolution}", ""))
    reload = (
        f'<li class="screen"><label><input type="checkbox" id="reload" data-seconds="{RELOAD_SECONDS}" checked> '
        f"reload every {RELOAD_SECONDS} s</label></li>"
        if results.unfinished
        else ""
    )
    listed = "".join(f'<li class="{kind}">{escape(text)}</li>' for text, kind in items)
    return f'<ul class="state">{listed}{reload}</ul>'


def _filters() -> str:
    selects = "".join(
        f'<label for="filter-{name}">{title} <select id="filter-{name}"><option value="">all</option></select></label>'
        for name, title in FILTERS.items()
    )
    note = paragraph(
        "Filters hide points and rows. Answers, verdicts and fits are always of all trials.", "note screen"
    )
    return (
        '<div class="filters" role="group" aria-label="Filters of the figures\' points and of the table of trials">'
        f'{selects}<button class="plain" id="clear" type="button">Clear</button>'
        '<output id="matching"></output></div>'
        f"<noscript><p>The figures and the table of trials need JavaScript.</p></noscript>{note}"
    )


def figure_html(drawn: Drawn) -> str:
    """One figure with its title as a heading and how to read it; its data for the page's script, without template and
    title."""
    number = f" {in_paper(drawn.entry.number)}" if drawn.entry.number else ""
    heading = f"<h3>{escape(drawn.title)}{number}</h3>"
    if drawn.need:
        return f"<figure>{heading}{paragraph('No data yet. ' + drawn.need, 'empty')}</figure>"
    content = json.loads(drawn.figure.to_json())
    min_width = content["layout"]["meta"]["min_width"]
    layout = {key: value for key, value in content["layout"].items() if key not in ("template", "title", "meta")}
    layout["margin"] = {**layout["margin"], "t": 48, "r": 40}  # its tools stand on the right
    data = script_json(f"data-{drawn.name}", {"data": content["data"], "layout": layout})
    size = f"min-width:{min_width}px;height:{layout['height']}px"
    return (
        f'<figure>{heading}<div class="plot-frame" role="group" aria-label="{escape(drawn.title)}">'
        f'<div class="plot" id="{escape(drawn.name)}" style="{size}"></div>'
        f"</div><figcaption>{escape(drawn.caption)}</figcaption></figure>{data}"
    )


def _trial_table(results: Results) -> str:
    content = sections.trial_rows(results.table)
    return (
        '<p class="screen"><label>Search <input id="search" type="search" placeholder="e.g. r50 distill"></label></p>'
        '<p id="shown" aria-live="polite"></p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="All trials"><table id="trial-table">'
        "<caption>One row a trial; a heading sorts by its column.</caption><thead></thead><tbody></tbody></table></div>"
        '<button class="plain screen" id="more" type="button" hidden>Show more</button>'
        f"{script_json('trial-rows', content)}"
    )


def _provenance(group: Group) -> str:
    spent = sections.cost(group.records) + sections.planned(group.all_trials, group.money)
    return sections.provenance(group.records) + spent + sections.money(group.money, group.prices)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-").replace("'", "")
