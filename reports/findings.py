"""What the statistics say, as parts of the page: claims with verdicts, fits, label efficiency, the next experiment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.claims import DIGITS, Claim
from reports.figures.style import STAGES, percent
from reports.fits import Fit, Refusal
from reports.markup import details, escape, in_paper, names, paragraph, table
from reports.next_experiment import Suggestion

VERDICTS = {
    "holds": ("✓", "holds"),
    "does not hold": ("✗", "fails"),
    "not enough data": ("○", "open"),
}
"""Verdict -> its symbol, and its class in the page: never told by color alone."""
SUGGESTED = 8
BOUNDS = {"about": "", "more than": ">\u00a0", "at most": "≤\u00a0"}


def tally(claims: Sequence[Claim]) -> str:
    """How many claims have which verdict, in one line."""
    counts: Counter[str] = Counter(claim.verdict for claim in claims)
    return " · ".join(f"{symbol} {verdict}: {counts[verdict]}" for verdict, (symbol, _) in VERDICTS.items())


def scoreboard(claims: Sequence[Claim]) -> str:
    """Every claim with its verdict, the effect found here, and the trials behind it."""
    about = (
        "The statements are the paper's; the effects are this study's, with 95\u00a0% intervals over seeds and "
        "architectures. A verdict needs an interval that settles it, and never rests on one seed."
    )
    rows = "".join(_claim(claim) for claim in claims)
    return f'<p class="tally">{escape(tally(claims))}</p>{paragraph(about, "note")}<ul class="claims">{rows}</ul>'


def effect(claim: Claim) -> str:
    """The effect with its interval, "" where there is none."""
    if math.isnan(claim.effect):
        return ""
    digits = DIGITS.get(claim.unit, 1)
    found, low, high = (f"{value:+.{digits}f}" for value in (claim.effect, claim.low, claim.high))
    return f"{found} {claim.unit}, no interval" if math.isnan(claim.low) else f"{found} [{low}, {high}] {claim.unit}"


def _claim(claim: Claim) -> str:
    symbol, kind = VERDICTS[claim.verdict]
    ids = details(f"{len(claim.ids):,} trials behind it", names(claim.ids)) if claim.ids else ""
    detail = f'<p class="soft">{escape(claim.detail)}.</p>' if claim.ids else ""
    need = f'<p class="soft">Needs {escape(claim.need.rstrip("."))}.</p>' if claim.need else ""
    return (
        f'<li><p class="verdict {kind}"><span aria-hidden="true">{symbol}</span>{escape(claim.verdict)}</p>'
        f"<div><p>{escape(claim.statement)} {in_paper(claim.where)}</p>"
        f"{detail}{need}{ids}</div>"
        f'<div class="effect"><p>{escape(effect(claim))}</p><p class="soft">{escape(claim.basis)}</p></div></li>'
    )


def fits_table(found: Sequence[Fit | Refusal]) -> str:
    """Exponents with intervals, floors, the held-out prediction against the truth; flagged models; refusals."""
    about = (
        "Error (1 − top-1) = coefficient × parameters^−exponent + floor, fitted in logs. Brackets are 95\u00a0% "
        "intervals. The biggest model is left out of a second fit and predicted by it: do not extrapolate with a law "
        "that misses it. A model that is clearly worse than a smaller one is flagged, and left out."
    )
    parts = [paragraph(about, "note")]
    for law, title in (
        ("power law", "Power laws without a floor"),
        ("power law with floor", "Power laws with a floor"),
    ):
        fitted = [fit for fit in found if isinstance(fit, Fit) and fit.law == law]
        if fitted:
            floored = law != "power law"
            head = [
                "error of",
                "fit",
                "exponent",
                *(["floor"] if floored else ["over seeds alone"]),
                "biggest: predicted",
            ]
            rows = [_fit_row(fit, floored) for fit in fitted]
            bases = "; ".join(dict.fromkeys(fit.basis for fit in fitted))
            parts.append(table([*head, "truth"], rows, f"{title} ({bases})"))
    refused = [one for one in found if isinstance(one, Refusal)]
    return "".join([*parts, _flags(found), _refusals(refused)])


def efficiency_tables(found: pd.DataFrame) -> str:
    """With how many times as many labels the reference equals each fine-tuned model: one table a reference."""
    if found.empty:
        return ""
    about = (
        "How many times as many labels the reference needs to equal the fine-tuned model: interpolated piecewise "
        "linearly in log labels, never extrapolated. > and ≤ are censored: the reference was not trained with more, "
        "or fewer, labels. †: its accuracy falls somewhere with more labels, and its first crossing counts."
    )
    tables = [table(head, rows, caption) for head, rows, caption in efficiency_rows(found)]
    return "".join([paragraph(about, "note"), *tables])


def efficiency_rows(found: pd.DataFrame) -> list[tuple[list[str], list[list[str]], str]]:
    """Head, rows by size, and caption of one table a reference."""
    tables = []
    for stage, rows in found.groupby("reference_stage", sort=True):
        against = "itself, supervised" if stage == "supervised" else f"{rows.iloc[0]['reference']}, fine-tuned"
        fractions = sorted(rows["label_fraction"].unique())
        cells = {(row["architecture"], row["label_fraction"]): _factors(row) for row in rows.to_dict("records")}
        body = [
            [name, *(cells.get((name, fraction), "–") for fraction in fractions)]
            for name in rows["architecture"].unique()
        ]
        notes = dict.fromkeys([*rows["basis"], *filter(None, rows["caveat"])])
        head = ["fine-tuned", *(f"with {percent(fraction)} of the labels" for fraction in fractions)]
        tables.append((head, body, f"Labels that equal it against {against} ({'; '.join(notes)})"))
    return tables


def next_table(found: Sequence[Suggestion], unfinished: bool) -> str:
    """The trials that would narrow an interval most for each device-hour, the best first."""
    if not found:
        done = "Nothing that is planned is missing. More seeds of the grid narrow every interval."
        return paragraph("Only pretrainings are missing." if unfinished else done)
    about = (
        "Of the trials that are planned and not finished, those that narrow a 95\u00a0% interval of top-1 most for "
        "each device-hour, unfinished parents included. One a cell of the grid."
    )
    head = ["trial", "narrows by points", "device time", "why"]
    rows = [
        [one.id, f"{one.half_width - one.after:.2f}", _duration(one.device_hours), one.reason]
        for one in found[:SUGGESTED]
    ]
    caption = f"The best {len(rows)} of {len(found)} cells with an unfinished trial"
    return f'{paragraph(about, "note")}<div class="prose">{table(head, rows, caption, numbers=(1, 2))}</div>'


def _duration(hours: float) -> str:
    if math.isnan(hours):
        return "unknown"
    size, unit = (1.0, "h") if hours >= 1 else (60, "min") if hours >= 1 / 60 else (3600, "s")
    amount = hours * size
    return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.2g} {unit}"


def factor(value: float, bound: str) -> str:
    """4.21 and "more than" -> "> 4.21×"."""
    return f"{BOUNDS[bound]}{value:.3g}×"


def _factors(row: Mapping[Any, Any]) -> str:
    first = "" if row["rises"] else "†"
    ends = [factor(row[end], row[f"{end}_bound"]) for end in ("low", "high") if row[f"{end}_bound"] != "unknown"]
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{factor(row['factor'], row['bound'])}{first}{interval}"


def _fit_row(fit: Fit, floored: bool) -> list[str]:
    family = "" if fit.family == "all" else f", {fit.family}"
    seeds = "–" if math.isnan(fit.seeds_low) else _interval(fit.seeds_low, fit.seeds_high)
    return [
        f"{STAGES[fit.stage]}, {percent(fit.label_fraction)}{family}",
        fit.method,
        f"{fit.exponent:.3f} {_interval(fit.low, fit.high)}",
        f"{fit.floor:.3f} {_interval(fit.floor_low, fit.floor_high)}" if floored else seeds,
        *_held_out(fit),
    ]


def _interval(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


def _held_out(fit: Fit) -> list[str]:
    held = fit.held_out
    if held is None:
        return ["too few others", "–"]
    error, low, high = (f"{100 * value:.1f}" for value in (held.predicted, held.low, held.high))
    truth = f"{100 * held.truth:.1f}\u00a0%, {'inside' if held.inside else 'outside'}"
    return [f"{held.architecture}: {error} [{low}, {high}]\u00a0%", truth]


def _flags(found: Sequence[Fit | Refusal]) -> str:
    flags = {(one.stage, one.label_fraction, flag.architecture): flag for one in found for flag in one.flagged}
    if not flags:
        return ""
    rows = [
        [
            *(STAGES[stage], percent(fraction), architecture, flag.better, f"{100 * flag.by:.1f}"),
            "left out of the fits" if flag.left_out else "within noise, kept",
        ]
        for (stage, fraction, architecture), flag in sorted(flags.items())
    ]
    head = ["stage", "labels", "model", "worse than the smaller", "by points", ""]
    return table(head, rows, f"Models that are worse than a smaller one: {len(rows)}", numbers=(4,))


def _refusals(refused: Sequence[Refusal]) -> str:
    """Refusals of the same reason in one row."""
    if not refused:
        return ""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for one in refused:
        cell = f"{STAGES[one.stage]} {percent(one.label_fraction)}" + ("" if one.family == "all" else f", {one.family}")
        listed = cells.setdefault((one.law, one.reason, one.need), [])
        listed += [cell] if cell not in listed else []
    rows = [[law, f"{reason}. Needs {need}.", "; ".join(listed)] for (law, reason, need), listed in cells.items()]
    return f'<div class="prose">{table(["law", "no fit, because", "of"], rows, "Fits that were refused")}</div>'
