"""What was chosen before trials were run, among what, and by which held-out images: a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.markup import details, escape, paragraph, table
from reports.records import Candidate, Record, Selection

LISTED = 200  # choices whose candidates are named in the page where there may be thousands


def selections_of(records: Sequence[Record]) -> dict[str, tuple[Selection, list[str]]]:
    """Every choice on which one of the records rests, by its id, with the ids of these records."""
    found: dict[str, tuple[Selection, list[str]]] = {}
    for record in records:
        for selection in record.selections:
            found.setdefault(selection.choice, (selection, []))[1].append(record.id)
    return dict(sorted(found.items()))


def chosen_section(records: Sequence[Record]) -> str:
    """All choices in a table, the candidates of each below it; empty where nothing was chosen."""
    by_id = {record.id: record for record in records}
    found = selections_of(records)
    if not found:
        return ""
    head = ["choice", "chosen", "top-1 (%)", "next (%)", "among", "images", "held out by"]
    rows = [_row(selection, by_id) for selection, _ in found.values()]
    note = (
        "Settings were chosen by accuracy on labelled training images that were held out of the trainings compared; no "
        "choice looked at test images. With few labels each image was held out once, in one of several trainings "
        "(cross-validation), and accuracies are means over all of them. What was chosen was then trained on all labels."
    )
    parts = [_candidates(selection, used_by, by_id) for selection, used_by in list(found.values())[:LISTED]]
    caption = f"Choices: {len(found):,}" + (f", candidates of the first {LISTED} listed" if len(found) > LISTED else "")
    overview = table(head, rows, f"{caption}; accuracies on held-out images", numbers=(2, 3, 4, 5))
    return f'{paragraph(note, "note")}<div class="prose">{overview}</div>{"".join(parts)}'


def _row(selection: Selection, by_id: Mapping[str, Record]) -> list[str]:
    chosen = next(one for one in selection.among if one.changes == selection.chosen)
    others = [one.dev_top1 for one in selection.among if one is not chosen and one.dev_top1 is not None]
    images, how = _held_out(chosen, by_id)
    return [
        selection.choice,
        described(selection.chosen),
        _percent(chosen.dev_top1),
        _percent(max(others, default=None)),
        str(len(selection.among)),
        images,
        how,
    ]


def _candidates(selection: Selection, used_by: Sequence[str], by_id: Mapping[str, Record]) -> str:
    """The candidates of one choice, the best first, with the trials that measured them."""
    ordered = sorted(selection.among, key=lambda one: -1.0 if one.dev_top1 is None else one.dev_top1, reverse=True)
    rows = [
        [
            described(one.changes) + (" (chosen)" if one.changes == selection.chosen else ""),
            "failed or stopped early" if one.dev_top1 is None else _percent(one.dev_top1),
            ", ".join(one.trials),
        ]
        for one in ordered
    ]
    content = table(["candidate", "held-out top-1 (%)", "measured by"], rows, f"Candidates of {selection.choice}")
    rests = f"<p>Rests on it: {escape(', '.join(used_by))}</p>"
    return details(f"{selection.choice}: {described(selection.chosen)}", f'<div class="prose">{content}{rests}</div>')


def _held_out(candidate: Candidate, by_id: Mapping[str, Record]) -> tuple[str, str]:
    """How many images a candidate was measured on, and whether they are one part of the labels or all in turn."""
    measured = [by_id[id] for id in candidate.trials if id in by_id and "evaluated" in by_id[id].metrics]
    if not measured or measured[0].spec.dev is None:
        return "not stated", "not stated"
    images, folds = sum(int(record.metrics["evaluated"]) for record in measured), measured[0].spec.dev.folds
    if len(candidate.trials) == 1:
        return f"{images:,}", f"one of {folds} parts"
    return f"{images:,}", f"cross-validation, {folds} folds"


def described(changes: Mapping[str, bool | int | float | str]) -> str:
    """Changes as text, settings by their last part: `head_layer 2, learning_rate 0.03`."""
    named = ((name.rpartition(".")[2], value) for name, value in changes.items())
    words = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in named]
    return ", ".join(words) or "as the study has it"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
