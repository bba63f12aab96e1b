"""The page's tables: Table 1 in the paper's layout, failures and what is missing, provenance, cost, and all trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.figures.style import STAGES, accuracy, amount, percent
from reports.markup import definitions, escape, paragraph, table
from reports.records import Failure, Problem, Record
from reports.scaling import SIZE
from reports.tables import best_points

LISTED = 200  # ids named in the page where there may be thousands

TRIAL_COLUMNS: dict[str, tuple[str, str, int | None]] = {
    "id": ("trial", "text", None),
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
    "study": ("run for study", "text", None),
    "parent": ("parent", "text", None),
}
"""Column of `tables.trials` -> heading, kind and decimals in the table of all trials."""


def table_1(trials: pd.DataFrame, caption: str) -> str:
    """Top-1 of every architecture in the layout of the paper's Table 1, with the spread and number of seeds if
    known."""
    points = {stage: best_points(trials, stage, SIZE) for stage in ("finetune", "linear", "supervised")}
    columns = [("finetune", fraction) for fraction in sorted(points["finetune"]["label_fraction"].unique())]
    columns += [
        (stage, points[stage]["label_fraction"].max()) for stage in ("linear", "supervised") if len(points[stage])
    ]
    cells = {
        (stage, point["architecture"], point["label_fraction"]): _cell(point)
        for stage, of_stage in points.items()
        for _, point in of_stage.iterrows()
    }
    models = trials[trials["stage"].isin(list(points))].drop_duplicates("architecture")
    rows = [
        [
            *(_known(model["depth"]), _known(model["width"], "×"), _yes(model["selective_kernels"])),
            amount(model["parameters"]),
            *(cells.get((stage, model["architecture"], fraction), "–") for stage, fraction in columns),
        ]
        for _, model in models.sort_values(["depth", "width", "selective_kernels"]).iterrows()
    ]
    head = [
        "Depth",
        "Width",
        "SK",
        "Parameters",
        *(f"{STAGES[stage]}, {percent(fraction)}" for stage, fraction in columns),
    ]
    return table(head, rows, caption, numbers=range(3, len(head)))


def failures_and_gaps(
    planned: Mapping[str, str], done: set[str], failures: Sequence[Failure], problems: Sequence[Problem]
) -> str:
    """Failed trials with their errors, files that were left out, and planned trials that have no result yet."""
    failures = [failure for failure in failures if failure.id not in done]
    failed = {failure.id for failure in failures}
    missing = {trial_id: label for trial_id, label in planned.items() if trial_id not in done | failed}
    parts = [_failures(failures), _problems(problems), _missing(missing)]
    return "".join(parts) or paragraph("Nothing failed, nothing is missing.")


def provenance(records: Sequence[Record]) -> str:
    """Data, label subsets, code and libraries behind one group of records."""
    first = records[0]
    subsets = {
        f"labels of subset {record.data.subset_hash}": f"{record.data.labelled_images:,} images"
        for record in sorted(records, key=lambda record: record.data.labelled_images)
        if record.data.subset_hash
    }
    commits = Counter(
        record.environment.commit + (" with uncommitted changes" if record.environment.dirty else "")
        for record in records
    )
    versions = sorted(
        {f"{name} {version}" for record in records for name, version in record.environment.versions.items()}
    )
    facts = {
        "records": f"{len(records):,} ({_counts(Counter(record.source for record in records))})",
        "protocol": first.spec.protocol,
        "data": json.dumps(first.spec.data.model_dump(mode="json"), sort_keys=True),
        "data fingerprint": first.data.fingerprint,
        "images": f"{first.data.train_images:,} for training, {first.data.test_images:,} for testing",
        **subsets,
        "commits": _counts(commits),
        "Python": ", ".join(sorted({record.environment.python for record in records})),
        "libraries": ", ".join(versions) or "not recorded",
        "hosts": ", ".join(sorted({record.environment.host for record in records})),
        "run for studies": ", ".join(sorted({record.study for record in records})),
    }
    return definitions(facts)


def cost(records: Sequence[Record]) -> str:
    """What was run on what, when, and at what cost, by stage."""
    stages = [stage for stage in STAGES if any(record.spec.stage == stage for record in records)]
    rows = [_cost_row(STAGES[stage], [record for record in records if record.spec.stage == stage]) for stage in stages]
    head = ["stage", "trials", "wall hours", "device hours", "images", "training FLOPs", "sessions"]
    machines = Counter(_machine(record) for record in records)
    facts = {
        "run on": _counts(machines),
        "first start": f"{min(record.started_at for record in records):%Y-%m-%d %H:%M} UTC",
        "last finish": f"{max(record.finished_at for record in records):%Y-%m-%d %H:%M} UTC",
    }
    caption = "Cost by stage; sessions above trials are trials that were interrupted and resumed."
    return table(head, [*rows, _cost_row("all", records)], caption, numbers=range(1, 7)) + definitions(facts)


def trial_rows(trials: pd.DataFrame) -> dict[str, Any]:
    """The table of all trials as plain JSON: columns (name, number, digits) and rows; columns without a value are
    left out."""
    names = [name for name in TRIAL_COLUMNS if name in ("id", "stage", "architecture") or trials[name].notna().any()]
    columns = []
    values = []
    for name in names:
        heading, kind, digits = TRIAL_COLUMNS[name]
        columns.append({"name": heading, "number": kind != "text"} | ({} if digits is None else {"digits": digits}))
        known = (100 * trials[name]).round(6) if kind == "percent" else trials[name]
        values.append([None if pd.isna(value) else value for value in known.tolist()])
    return {"columns": columns, "rows": [list(row) for row in zip(*values, strict=True)], "names": names}


def _cell(point: pd.Series) -> str:
    return accuracy(point["mean"], point["std"]) + ("" if point["single_seed"] else f" (n = {point['n']})")


def _known(value: Any, unit: str = "") -> str:
    return "–" if pd.isna(value) else f"{value:g}{unit}"


def _yes(value: Any) -> str:
    return "–" if pd.isna(value) else "yes" if value else "no"


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
        f"<details><summary>Traceback of {escape(failure.id)}</summary><pre>{escape(failure.traceback)}</pre></details>"
        for failure in failures[:LISTED]
    )
    caption = f"Trials that failed: {len(failures)}" + (
        f", the first {LISTED} listed" if len(failures) > LISTED else ""
    )
    return f'<div class="messages">{table(head, rows, caption)}</div>{traces}'


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    rows = [[problem.path, problem.reason] for problem in problems[:LISTED]]
    caption = f"Files left out because they are not valid: {len(problems)}"
    return f'<div class="messages">{table(["file", "reason"], rows, caption)}</div>'


def _missing(missing: Mapping[str, str]) -> str:
    if not missing:
        return ""
    ids = list(missing)
    more = [f"and {len(ids) - LISTED:,} more"] if len(ids) > LISTED else []
    listed = "".join(f"<li>{escape(name)}</li>" for name in [*ids[:LISTED], *more])
    summary = f"Planned and without a result: {len(ids):,} ({_counts(Counter(missing.values()))})"
    return f"<details><summary>{escape(summary)}</summary><ul>{listed}</ul></details>"


def _cost_row(name: str, records: Sequence[Record]) -> list[str]:
    costs = [record.cost for record in records]
    return [
        name,
        f"{len(costs):,}",
        f"{sum(cost.wall_seconds for cost in costs) / 3600:.3g}",
        f"{sum(cost.device_seconds for cost in costs) / 3600:.3g}",
        f"{sum(cost.images for cost in costs):,}",
        f"{sum(cost.train_flops for cost in costs):.3g}",
        f"{sum(cost.sessions for cost in costs):,}",
    ]


def _machine(record: Record) -> str:
    resources = record.resources
    each = ", ".join(f"{value:g} {name}" for name, value in sorted(resources.per_worker.items()))
    return f"{resources.device}, {resources.workers} worker{'s' if resources.workers != 1 else ''} of {each}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counter.most_common())
