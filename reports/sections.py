"""Parts of the page that come straight from records: failures and gaps, provenance, cost, and all trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports import paper
from reports.figures.style import STAGES
from reports.layouts import NUMBERS, table_rows
from reports.markup import definitions, details, escape, in_paper, names, paragraph, table
from reports.planned import estimated, planned_and_actual
from reports.prices import Money, Prices, money_text, seconds_on
from reports.records import Failure, Problem, Record, Resources
from reports.results import Results

MOST_OFF = 10
LISTED = 200  # ids named in the page where there may be thousands

TRIAL_COLUMNS: dict[str, tuple[str, str, int | None]] = {
    "id": ("trial", "text", None),
    "group": ("comparable group", "number", None),
    "stage": ("stage", "text", None),
    "architecture": ("architecture", "text", None),
    "label_fraction": ("labels (%)", "percent", None),
    "labels": ("labels", "number", None),
    "seed": ("seed", "number", None),
    "top1": ("top-1 (%)", "percent", 2),
    "top5": ("top-5 (%)", "percent", 2),
    "head_depth": ("head depth", "number", None),
    "head_layer": ("head layer", "number", None),
    "temperature": ("temperature", "number", None),
    "teacher_architecture": ("teacher", "text", None),
    "loss": ("loss", "number", 4),
    "parameters": ("parameters", "number", None),
    "device_seconds": ("device seconds", "number", 1),
    "money": ("money", "number", 4),
    "study": ("run for study", "text", None),
    "parent": ("parent", "text", None),
}
"""Column of `Results.table` -> heading, kind and decimals in the table of all trials."""


def paper_tables(trials: pd.DataFrame) -> str:
    """The paper's Tables 1, 2, 3, G.1 and G.2, this study's rows beside the paper's."""
    layouts = [table_rows(number, trials, paper.table()) for number in NUMBERS]
    return "".join(
        f"<h3>{escape(layout.title)} {in_paper(f'Table {layout.number}')}</h3>"
        + (paragraph(f"None of this study yet. {layout.need}", "note") if layout.need else "")
        + table(layout.head, layout.rows, "Means ± standard deviations over n seeds", layout.numeric)
        for layout in layouts
    )


def failures_and_gaps(results: Results) -> str:
    """Failed trials with their errors, files that were left out, and planned trials that have no result yet."""
    missing = {id: trial.stage for id, trial in results.missing.items()}
    parts = [_failures(results.failed), _problems(results.problems), _missing(missing)]
    return "".join(parts) or paragraph("Nothing failed, nothing is missing.")


def provenance(records: Sequence[Record]) -> str:
    """Data, label subsets, code and libraries behind one group of records; a paper's records state few of these."""
    first = records[0]
    environments = [record.environment for record in records if record.environment]
    resources = [record.resources for record in records if record.resources]
    subsets = {
        record.data.subset_hash: f"{record.data.labelled_images:,} images: {record.data.subset_hash}"
        for record in sorted(records, key=lambda record: record.data.labelled_images)
        if record.data.subset_hash
    }
    commits = Counter(one.commit + (" with uncommitted changes" if one.dirty else "") for one in environments)
    versions = sorted({f"{name} {version}" for one in environments for name, version in one.versions.items()})
    facts = {
        "records": f"{len(records):,} ({_counts(Counter(record.source for record in records))})",
        "run for studies": ", ".join(sorted({record.study for record in records})),
        "protocol": first.spec.protocol,
        "data": json.dumps(first.spec.data.model_dump(mode="json"), sort_keys=True),
        "data fingerprint": first.data.fingerprint,
        "images": f"{first.data.train_images:,} for training, {first.data.test_images:,} for testing",
        "label subsets": "; ".join(subsets.values()),
        "commits": _counts(commits),
        "Python": ", ".join(sorted({one.python for one in environments})),
        "libraries": ", ".join(versions),
        "hosts": ", ".join(sorted({one.host for one in environments})),
        "TF32 allowed": _counts(Counter(_yes(one.tf32) for one in resources)),
        "channels last": _counts(Counter(_yes(one.channels_last) for one in resources)),
        "CPU threads a worker": _counts(Counter(str(one.threads or "not noted") for one in resources)),
        "continued with other workers or threads": f"{sum(bool(one.earlier_layouts) for one in resources):,} trials",
    }
    return definitions({name: fact if fact != "" else "not stated" for name, fact in facts.items()})


def cost(records: Sequence[Record]) -> str:
    """What was run on what, when, and at what cost, by stage."""
    stages = [stage for stage in STAGES if any(record.spec.stage == stage for record in records)]
    rows = [_cost_row(STAGES[stage], [record for record in records if record.spec.stage == stage]) for stage in stages]
    head = ["stage", "trials", "wall hours", "device hours", "images", "training FLOPs", "sessions"]
    starts = [record.started_at for record in records if record.started_at]
    ends = [record.finished_at for record in records if record.finished_at]
    facts = {
        "run on": _counts(Counter(_machine(record.resources) for record in records if record.resources)),
        "first start": f"{min(starts):%Y-%m-%d %H:%M} UTC" if starts else "",
        "last finish": f"{max(ends):%Y-%m-%d %H:%M} UTC" if ends else "",
    }
    caption = "Cost by stage; sessions above trials are trials that were interrupted and resumed."
    stated = {name: fact or "not stated" for name, fact in facts.items()}
    return table(head, [*rows, _cost_row("all", records)], caption, numbers=range(1, 7)) + definitions(stated)


def planned(trials: pd.DataFrame, cost: Money) -> str:
    """What trials took, and cost where a price is known, beside what their launches had estimated, by stage and
    architecture, and which were off most."""
    known, every = estimated(trials, cost.trials), len(trials)
    if not len(known):
        return paragraph(
            "Planned and actual: no trial here has an estimate from its launch. One is made where a trial of the kind "
            "has finished before, or `plan --calibrate` has measured it.",
            "note",
        )
    by_stage = planned_and_actual(known)
    order = {stage: number for number, stage in enumerate(STAGES)}
    priced = bool(known["money"].notna().any())
    rows = [
        [STAGES[row["stage"]], row["architecture"], f"{row['trials']:,}", *_both(row, priced)]
        for row in sorted(by_stage.to_dict("records"), key=lambda row: order[row["stage"]])
    ]
    total = by_stage[["planned", "actual", "planned_money", "money"]].sum(skipna=False)
    rows.append(["all", "", f"{len(known):,}", *_both(total.to_dict(), priced)])
    lacking = f"; the other {every - len(known):,} had no estimate" if len(known) < every else ""
    paid = ", and what these cost at the price of what each ran on" if priced else ""
    caption = f"Planned and actual device-seconds of {len(known):,} of {every:,} trials{lacking}{paid}"
    both = ["planned", "actual", "actual / planned"]
    both += [f"planned ({cost.currency})", f"actual ({cost.currency})"] if priced else []
    worst = known.head(MOST_OFF).rename(columns={"planned_device_seconds": "planned", "device_seconds": "actual"})
    listed = [[row["id"], *_both(row, priced)] for row in worst.to_dict("records")]
    off = table(["trial", *both], listed, "Those that were off most", numbers=range(1, 1 + len(both)))
    head = ["stage", "architecture", "trials", *both]
    return table(head, rows, caption, numbers=range(2, len(head))) + details(
        f"The {len(listed)} that were off most", off
    )


def _both(row: Mapping[Any, float], priced: bool) -> list[str]:
    """Planned and actual seconds and their ratio, and what both cost if anything has a price."""
    planned, actual = row["planned"], row["actual"]
    times = [f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}" for seconds in (planned, actual)]
    times.append(f"{actual / planned:.2f}")
    return times + ([money_text(row["planned_money"]), money_text(row["money"])] if priced else [])


def money(cost: Money, prices: Prices) -> str:
    """What the trials cost in money, and the prices behind it."""
    known = cost.trials["money"].dropna()
    total = f"{money_text(known.sum())} {cost.currency} for {len(known):,} of {len(cost.trials):,} trials"
    total = total if len(known) else "not known"
    unpriced = f"; no price is known of {', '.join(cost.unpriced)}" if cost.unpriced else ""
    if cost.unpriced_nodes:
        nodes = ", ".join(cost.unpriced_nodes)
        unpriced += f"; nodes of type {nodes} have no price for such devices, so that their trials are priced by device"
    rows = [
        [
            one.type if one.devices == 1 else f"{one.type}, each of {one.devices}",
            f"{one.per_hour / one.devices:g}",
            one.date,
            one.source,
        ]
        for one in cost.nodes
    ]
    rows += [[one.pattern, f"{one.per_device_hour:g}", one.date, one.source] for one in prices.devices]
    if prices.cpu:
        rows.append(["cpu, each core", f"{prices.cpu.per_core_hour:g}", prices.cpu.date, prices.cpu.source])
    head = ["device", f"{prices.currency} an hour", "as of", "source"]
    priced = table(head, rows, "Prices of device-hours; --prices FILE gives others", numbers=(1,))
    return definitions({"money": total + unpriced}) + details("Price table", f'<div class="prose">{priced}</div>')


def trial_rows(trials: pd.DataFrame) -> dict[str, Any]:
    """`Results.table` as plain JSON: columns (name, number, digits) and rows; columns without a value, and a group or
    study that is the only one, are left out."""
    single = {name for name in ("group", "study") if trials[name].nunique() == 1}
    told = {"id", "stage", "architecture"}
    names = [name for name in TRIAL_COLUMNS if name in told or (name not in single and trials[name].notna().any())]
    columns = []
    values = []
    for name in names:
        heading, kind, digits = TRIAL_COLUMNS[name]
        heading = f"{heading} ({trials['currency'].iloc[0]})" if name == "money" else heading
        columns.append({"name": heading, "number": kind != "text"} | ({} if digits is None else {"digits": digits}))
        known = (100 * trials[name]).round(6) if kind == "percent" else trials[name]
        values.append([None if pd.isna(value) else value for value in known.tolist()])
    return {"columns": columns, "rows": [list(row) for row in zip(*values, strict=True)], "names": names}


def _yes(value: bool | None) -> str:
    return "not noted" if value is None else "yes" if value else "no"


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    head = ["trial", "attempts", "when", "host", "error"]
    rows = [
        [
            *(failure.id, failure.attempts, f"{failure.failed_at:%Y-%m-%d %H:%M} UTC", failure.host),
            f"{failure.error_type}: {failure.message}",
        ]
        for failure in failures[:LISTED]
    ]
    traces = "".join(
        details(f"Traceback of {failure.id}", f"<pre>{escape(failure.traceback)}</pre>")
        for failure in failures[:LISTED]
    )
    caption = f"Trials that failed: {len(failures)}" + (
        f", the first {LISTED} listed" if len(failures) > LISTED else ""
    )
    return f'<div class="prose">{table(head, rows, caption)}</div>{traces}'


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    rows = [[problem.path, problem.reason] for problem in problems[:LISTED]]
    caption = f"Files left out because they are not valid: {len(problems)}"
    return f'<div class="prose">{table(["file", "reason"], rows, caption)}</div>'


def _missing(missing: Mapping[str, str]) -> str:
    if not missing:
        return ""
    summary = f"Planned and without a result: {len(missing):,} ({_counts(Counter(missing.values()))})"
    return details(summary, names(list(missing), LISTED))


def _cost_row(name: str, records: Sequence[Record]) -> list[str]:
    costs = [record.cost for record in records]
    return [
        name,
        f"{len(costs):,}",
        _hours([cost.wall_seconds for cost in costs]),
        _hours([cost.device_seconds for cost in costs]),
        f"{sum(cost.images for cost in costs):,}",
        f"{sum(cost.train_flops for cost in costs):.3g}",
        _total([cost.sessions for cost in costs]),
    ]


def _hours(seconds: Sequence[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return f"{sum(known) / 3600:.3g}" if len(known) == len(seconds) else "not stated"


def _total(counts: Sequence[int | None]) -> str:
    known = [value for value in counts if value is not None]
    return f"{sum(known):,}" if len(known) == len(counts) else "not stated"


def _machine(resources: Resources) -> str:
    each = ", ".join(f"{value:g} {name}" for name, value in sorted(resources.per_worker.items()))
    types = " and ".join(type or "an unnamed node" for type in sorted(seconds_on(resources)))
    rented = f" on {types}" if resources.node_type or resources.seconds_on else ""
    return f"{resources.device}, {resources.workers} worker{'s' if resources.workers != 1 else ''} of {each}{rented}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counter.most_common())
