"""A summary of the report in Markdown, for a pull request or an issue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from reports.answer import answer
from reports.figures.style import STAGES, percent
from reports.findings import VERDICTS, effect, efficiency_rows, tally
from reports.fits import Fit, Refusal
from reports.layouts import table_rows
from reports.results import Group, Results

SUGGESTED = 3
LISTED = 20  # failures and gaps named; the page has all of them


def as_markdown(results: Results) -> str:
    """Title, question, answer, claims, fits, label efficiency, accuracies in the layout of the paper's Table 1, the
    next experiments, gaps, provenance.

    Whatever names and messages hold is text: it starts no heading, image or HTML.
    """
    study = results.study
    parts = [f"# {_text(study.name)}", _text(study.question), _state(results)]
    for group in results.groups:
        title = f" {text}" if (text := _text(group.title)) else ""
        parts += [f"## Answer{title}", "\n".join(f"- {_text(sentence)}" for sentence in answer(group.trials))]
        parts += [f"## Claims{title}", tally(group.claims), _claims(group)]
        parts += _fits(group, title) + _efficiency(group, title)
        layout = table_rows("1", group.trials, group.trials.iloc[:0])
        parts += [f"## {layout.title}{title}", _table(layout.head, layout.rows) if layout.rows else layout.need]
    parts += _next(results)
    parts += ["## Failed and missing", _gaps(results), "## Provenance", _provenance(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _state(results: Results) -> str:
    planned = f" of {len(results.study.planned):,} planned" if results.study.planned else ""
    counts = f"{len(results.failed):,} failed, {len(results.missing):,} missing"
    return f"{results.finished:,}{planned} trials finished, {counts}, {len(results.problems):,} unreadable."


def _claims(group: Group) -> str:
    """A table of the claims that these trials say something about, and the names of the others."""
    rows = [
        [f"{VERDICTS[claim.verdict][0]} {claim.verdict}", claim.statement, effect(claim), claim.basis, claim.need]
        for claim in group.claims
        if claim.ids
    ]
    untried = [claim.statement for claim in group.claims if not claim.ids]
    told = _table(["verdict", "statement", "effect [95 % interval]", "basis", "needs"], rows) if rows else ""
    rest = _text(f"Nothing here to try these on: {'; '.join(untried)}.") if untried else ""
    return "\n\n".join(part for part in (told, rest) if part)


def _fits(group: Group, title: str) -> list[str]:
    """Exponents of the power laws without a floor, by Huber's loss, and how many fits were refused."""
    found = [fit for fit in group.fits if isinstance(fit, Fit) and (fit.law, fit.method) == ("power law", "Huber")]
    if not found:
        return []
    rows = [
        [
            STAGES[fit.stage],
            percent(fit.label_fraction),
            fit.family,
            f"{fit.exponent:.3f}",
            f"{fit.low:.3f} to {fit.high:.3f}",
        ]
        for fit in found
    ]
    refused = sum(isinstance(one, Refusal) for one in group.fits)
    head = ["error of", "labels", "family", "exponent", "95 % interval"]
    note = f"Error falls as a power of the number of parameters. {refused} fits of {len(group.fits)} were refused."
    return [f"## Fits{title}", note, _table(head, rows)]


def _efficiency(group: Group, title: str) -> list[str]:
    """One table a reference, as on the page."""
    tables = efficiency_rows(group.efficiency)
    parts = [part for head, rows, caption in tables for part in (_text(caption), _table(head, rows))]
    return [f"## Label efficiency{title}", *parts] if parts else []


def _next(results: Results) -> list[str]:
    lines = [f"- {_text(f'{one.id}: {one.reason}')}" for one in results.suggestions[:SUGGESTED]]
    return ["## The next experiment", "\n".join(lines)] if lines else []


def _gaps(results: Results) -> str:
    lines = [f"{failure.id} failed: {failure.error_type}: {failure.message}" for failure in results.failed]
    lines += [f"{problem.path} left out: {problem.reason}" for problem in results.problems]
    lines += [f"{id} has no result" for id in results.missing]
    more = [f"- and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    listed = [f"- {_text(line)}" for line in lines[:LISTED]]
    return "\n".join([*listed, *more]) or "Nothing failed, nothing is missing."


def _provenance(results: Results) -> str:
    environments = [record.environment for record in results.records if record.environment]
    commits = Counter(one.commit[:12] + ("+changes" if one.dirty else "") for one in environments)
    data = {f"{record.spec.data.name} {record.data.fingerprint[:12]}" for record in results.records}
    protocols = {str(record.spec.protocol) for record in results.records}
    return _text(
        f"{len(results.records):,} records; data {', '.join(sorted(data)) or 'none'}; "
        f"protocol {', '.join(sorted(protocols)) or 'none'}; commits {', '.join(sorted(commits)) or 'not stated'}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_text(cell).replace("|", "\\|") or " " for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Text on one line, with what Markdown or HTML would read as markup escaped: also what starts a list or a rule."""
    line = re.sub(r"([\\`*_~\[\]<>#&!])", r"\\\1", " ".join(text.split()))
    line = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
    return re.sub(r"^([-+=])(?=\s|$|[-=]+$)", r"\\\1", line)
