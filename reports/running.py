"""Trials that run now: how far they are, how their loss goes, how fast they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reports.markup import escape, paragraph, section
from reports.progress import Progress, read_progresses
from reports.storage import Storage

LISTED = 50
"""Trials that run now which the page shows."""

POINTS = 100
WIDTH, HEIGHT = 200, 40
PLACE = "<!-- running -->"
"""Where a page has, or gets, its section of what runs now; whatever names and messages hold is escaped."""


def read_running(storage: Storage, unfinished: Iterable[str], since: str) -> dict[str, Progress]:
    """The progress of trials that run in a launch that began at `since`; what cannot be read is left out here."""
    begun = set(storage.list("checkpoints"))
    known, _ = read_progresses(storage, (id for id in unfinished if id in begun))
    return {id: one for id, one in known.items() if one.is_of(since)}


def facts(progress: Progress) -> dict[str, str]:
    """What is shown of a running trial, by its heading; empty where it is not known or not measured."""
    row = progress.history[-1] if progress.history else {}

    def number(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    return {
        "done": f"{progress.share * 100:.0f} %",
        "loss": number("loss", ".4g"),
        "learning rate": number("learning_rate", ".3g"),
        "probe loss": number("probe_loss", ".4g"),
        "images/s": number("images_per_second", ",.3g" if row.get("images_per_second", 0) < 100 else ",.0f"),
        "waits for data": f"{row['data_wait'] * 100:.0f} %" if "data_wait" in row else "",
    }


def with_running(page: str, running: Mapping[str, Progress]) -> str:
    """A page with what runs now at its place; nothing there where nothing runs."""
    return page.replace(PLACE, running_section(running) if running else "", 1)


def running_section(running: Mapping[str, Progress]) -> str:
    """A table of the running trials, each with the curve of its loss."""
    shown = list(running.items())[:LISTED]
    names = list(facts(shown[0][1])) if shown else []
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("trial", "loss so far", *names))
    rows = "".join(_table_row(id, progress) for id, progress in shown)
    more = paragraph(f"And {len(running) - LISTED:,} more.", "note") if len(running) > LISTED else ""
    note = paragraph(
        "As the trials themselves told a few seconds before this page was written. The curves are of the training "
        "loss, from the first step to the latest, each from its lowest to its highest value.",
        "note",
    )
    number = f"{len(running):,} trial{'s' if len(running) > 1 else ''}"
    table = (
        f'<div class="scroll" tabindex="0"><table><caption>{number} running</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return section("running", "Running now", table, more, note)


def _table_row(id: str, progress: Progress) -> str:
    curve = loss_curve([(row["step"], row["loss"]) for row in progress.history if {"step", "loss"} <= row.keys()])
    cells = "".join(f'<td class="number">{escape(value)}</td>' for value in facts(progress).values())
    return f"<tr><td>{escape(id)}</td><td>{curve}</td>{cells}</tr>"


def loss_curve(points: Sequence[tuple[float, float]]) -> str:
    """A small drawing of losses over steps, nothing of fewer than two points; about `POINTS` of them are drawn."""
    if len(points) < 2:
        return ""
    kept = [points[number] for number in sorted({*range(0, len(points), -(-len(points) // POINTS)), len(points) - 1})]
    low, high = min(loss for _, loss in kept), max(loss for _, loss in kept)
    first, last = kept[0][0], kept[-1][0]
    drawn = " ".join(
        f"{WIDTH * (step - first) / ((last - first) or 1):.1f},{HEIGHT * (high - loss) / ((high - low) or 1):.1f}"
        for step, loss in kept
    )
    label = f"loss {kept[0][1]:.4g} at step {first:.0f}, {kept[-1][1]:.4g} at step {last:.0f}"
    return (
        f'<svg class="curve" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><title>{escape(label)}</title><polyline points="{drawn}"></polyline></svg>'
    )
