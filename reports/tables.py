"""Records -> tidy tables: one row a trial, one row a logged step, and means over seeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import JsonValue

from reports.comparable import NAMED, allowed, with_caveats
from reports.records import Environment, Record
from reports.remembered import remembered
from reports.settings import settings_of, variant

ARCHITECTURE = re.compile(r"r(?P<depth>\d+)(?:w(?P<width>\d+(?:\.\d+)?))?(?P<sk>sk)?")

TEXTS = (
    "id",
    "study",
    "source",
    "data",
    "stage",
    "architecture",
    "parent",
    "pretrain_id",
    "teacher_architecture",
    "teacher_stage",
    "distill_images",
    "variant",
    "setting",
    "device",
    "commit",
)
INTEGERS = ("depth", "parameters", "labels", "head_depth", "head_layer", "seed", "images", "sessions", "workers")
METRICS = ("top1", "top5", "knn_top1", "loss", "contrastive_accuracy", "effective_rank")
NUMBERS = (
    *("width", "label_fraction", "temperature", "distillation_weight", "teacher_top1", *METRICS),
    *("wall_seconds", "device_seconds", "total_device_seconds", "planned_device_seconds"),
    *("train_flops", "total_flops"),
)
FLAGS = ("selective_kernels", "memory", "regularized", "chosen")
TIMES = ("started_at", "finished_at")
SETTINGS = ("stage", *NAMED, "setting", "chosen")
COLUMNS: dict[str, str] = {
    **dict.fromkeys(TEXTS, "string"),
    **dict.fromkeys(INTEGERS, "Int64"),
    **dict.fromkeys(NUMBERS, "float64"),
    **dict.fromkeys(FLAGS, "boolean"),
    **dict.fromkeys(TIMES, "datetime64[us, UTC]"),
}
"""Columns of `trials` and their types; a gap is NA (NaN in a column of numbers)."""


def data_key(record: Record) -> tuple[str, str, str]:
    """What must agree for two results to be comparable: protocol, the data that was asked for, the data that was
    found."""
    asked = json.dumps(record.spec.data.model_dump(mode="json"), sort_keys=True)
    return f"protocol {record.spec.protocol}", f"data {asked}", f"data fingerprint {record.data.fingerprint}"


def group_by_data(records: Iterable[Record]) -> list[list[Record]]:
    """Records that may stand in one table, the largest group first."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(data_key(record), []).append(record)
    return sorted(groups.values(), key=len, reverse=True)


def trials(records: Sequence[Record]) -> pd.DataFrame:
    """One row a trial, in the order of `records`, with the columns and types of `COLUMNS`.

    Rates are in [0, 1], `parameters` are the encoder's, `labels` the number of labels that the result rests on. What
    a trial inherits is looked up along its parents: a distilled student has its teacher's label fraction, head layer
    and head depth unless its own specification names them, a fine-tuned trial its pretraining's head depth; a parent
    that is not among `records` leaves a gap. `variant` is equal for trials that differ in nothing but seeds, and what
    was chosen for each seed on held-out images; `setting` also across architectures and label fractions.

    `pretrain_id` is the pretraining that a trial descends from (its own, if it is one), and `memory` whether that
    pretraining had a memory of negatives or a momentum encoder. `regularized` says of a supervised trial whether it
    had AutoAugment or label smoothing, `chosen` of any whether it rests on a choice that was made on held-out images.
    `teacher_top1` and `teacher_stage` are of a student's teacher: "distill" is one that was distilled itself.
    `total_flops` and `total_device_seconds` add those of all ancestors, each in full: NaN where one of them is unknown.

    Raises ValueError when `records` mix protocols or data: see `group_by_data`.
    """
    _check_comparable(records)
    by_id = {record.id: record for record in records}
    variants: dict[str, str] = {}
    chains = [lineage(record, by_id) for record in records]
    rows = [_row(chain, variants) for chain in chains]
    settings = pd.Series(settings_of(chains), dtype="string")
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(setting=settings).astype(COLUMNS)


def history(records: Sequence[Record], stage: str) -> pd.DataFrame:
    """One row a logged step of every trial of one stage: id, architecture, parameters, seed and what was logged."""
    rows = [
        {
            "id": record.id,
            "architecture": record.spec.architecture,
            "parameters": record.model.encoder_parameters,
            "seed": record.spec.seed,
            **step,
        }
        for record in records
        if record.spec.stage == stage
        for step in record.history
    ]
    return pd.DataFrame(rows, columns=None if rows else ["id", "architecture", "parameters", "seed", "step", "loss"])


def summary(df: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, sample standard deviation (n - 1) and count of top-1 over seeds, for each value of `by` and each variant.

    Columns: `by`, variant, mean, std (NaN with a single seed: no spread is known), n, single_seed, seeds and ids
    (lists). Trials without a top-1 are left out. Trials that differ in more than their seeds are never averaged
    together, which is why variants stay apart; `best_variants` chooses among them.
    """
    keys = [*by, *(["variant"] if "variant" not in by else [])]
    present = df.loc[df["top1"].notna(), [*keys, "top1", "seed", "id"]]
    grouped = present.groupby(keys, dropna=False, sort=True)
    table = grouped.agg(mean=("top1", "mean"), std=("top1", "std"), n=("top1", "count")).reset_index()
    ids: list[list[str]] = [[] for _ in range(len(table))]
    seeds: list[set[int]] = [set() for _ in range(len(table))]
    rows = zip(grouped.ngroup(), present["seed"].array, present["id"].array, strict=True)
    for group, seed, trial_id in rows:  # a loop over rows: aggregating lists by group is ten times as slow
        ids[group].append(trial_id)
        if seed is not pd.NA:
            seeds[group].add(seed)
    lists = {"seeds": [sorted(found) for found in seeds], "ids": ids}
    table = pd.concat([table, pd.DataFrame(lists, index=table.index, dtype="object")], axis=1)
    return table.assign(single_seed=table["n"] == 1)


def best_variants(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Of a `summary`, one row for each value of `by`: the variant with the highest mean.

    Adds `variants`, the number that was chosen from. The choice looks at the same test accuracy that is then shown, so
    it is a little optimistic when `variants` is above 1.
    """
    ordered = table.sort_values("mean", ascending=False, kind="stable")
    grouped = ordered.groupby(list(by), dropna=False, sort=True)
    chosen = grouped.head(1).assign(variants=grouped["mean"].transform("size"))
    return chosen.sort_values(list(by), kind="stable").reset_index(drop=True)


def best_points(df: pd.DataFrame, stage: str, by: Sequence[str]) -> pd.DataFrame:
    """The points of a figure: `best_variants` of the trials of one stage, with the settings that a point stands for.

    Chosen among the settings that may be compared (`comparable.allowed`), with the columns of
    `comparable.with_caveats`.
    """
    return remembered(df, ("best points", stage, *by), lambda: _best_points(df, stage, by)).copy(deep=False)


def _best_points(df: pd.DataFrame, stage: str, by: Sequence[str]) -> pd.DataFrame:
    cells = summary(df[df["stage"] == stage], by)
    by_id = df.set_index("id")[[name for name in SETTINGS if name not in by]]
    settings = by_id.loc[[ids[0] for ids in cells["ids"]]].reset_index(drop=True)
    for row in settings.index[settings["chosen"].fillna(False)]:  # other seeds may have chosen otherwise
        differ = by_id.loc[cells["ids"][row]].nunique(dropna=False) > 1
        settings.loc[row, differ.index[differ]] = pd.NA
    cells = pd.concat([cells, settings], axis=1)
    kept = allowed(cells, by)
    return with_caveats(best_variants(kept, by), cells.drop(kept.index), by)


def lineage(record: Record, by_id: Mapping[str, Record]) -> list[Record]:
    """The record, its parent, its parent's parent, ... as far as they are known."""
    chain = [record]
    while (parent := by_id.get(chain[-1].spec.parent or "")) is not None:
        if any(parent.id == one.id for one in chain):
            break
        chain.append(parent)
    return chain


def _check_comparable(records: Sequence[Record]) -> None:
    keys = {data_key(record): record.id for record in records}
    if len(keys) < 2:
        return
    (one, first_id), (other, second_id) = list(keys.items())[:2]
    differing = "; ".join(f"{a} and {b}" for a, b in zip(one, other, strict=True) if a != b)
    raise ValueError(
        f"these records cannot stand in one table: {differing} (for example trials {first_id} and {second_id}). "
        "Expected one protocol and one data set; make one table for each group of `group_by_data`"
    )


def _row(chain: list[Record], variants: dict[str, str]) -> dict[str, Any]:
    record = chain[0]
    spec, settings = record.spec, record.spec.settings
    named = ARCHITECTURE.fullmatch(spec.architecture)
    labelled = next((one for one in chain if _number(one.spec.settings, "label_fraction") is not None), None)
    pretrain = next((one for one in chain if one.spec.stage == "pretrain"), None)
    distilled = spec.stage == "distill"
    return {
        "id": record.id,
        "study": record.study,
        "source": record.source,
        "data": spec.data.name,
        "stage": spec.stage,
        "architecture": spec.architecture,
        "depth": int(named["depth"]) if named else None,
        "width": float(named["width"] or 1) if named else None,
        "selective_kernels": bool(named["sk"]) if named else None,
        "parameters": record.model.encoder_parameters,
        "label_fraction": _number(labelled.spec.settings, "label_fraction") if labelled else None,
        "labels": labelled.data.labelled_images if labelled else None,
        "head_depth": _inherited(chain, "head_depth"),
        "head_layer": _inherited(chain, "head_layer"),
        "temperature": _number(settings, "temperature") if distilled else None,
        "distillation_weight": _number(settings, "distillation_weight") if distilled else None,
        **(_teacher(chain) if distilled else {}),
        "distill_images": settings.get("images") if distilled else None,
        "seed": spec.seed,
        "parent": spec.parent,
        "pretrain_id": pretrain.id if pretrain else None,
        "memory": _memory(pretrain.spec.settings) if pretrain else None,
        "regularized": _regularized(settings) if spec.stage == "supervised" else None,
        "variant": variant(chain, variants),
        "chosen": bool(record.selections),
        **{name: record.metrics.get(name) for name in METRICS},
        **dict(record.cost),
        "total_flops": _total([one.cost.train_flops for one in chain], chain),
        "total_device_seconds": _total([one.cost.device_seconds for one in chain], chain),
        "device": record.resources.device if record.resources else None,
        "workers": record.resources.workers if record.resources else None,
        "commit": _commit(record.environment) if record.environment else None,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }


def _teacher(chain: list[Record]) -> dict[str, Any]:
    if len(chain) < 2:
        return {}
    spec = chain[1].spec
    return {
        "teacher_architecture": spec.architecture,
        "teacher_stage": spec.stage,
        "teacher_top1": chain[1].metrics.get("top1"),
    }


def _memory(settings: Mapping[str, JsonValue]) -> bool | None:
    """Whether a pretraining had more negatives or other keys than its own batch; None where that is not noted."""
    memory = settings.get("memory")
    return _any_above_zero(memory.get("size"), memory.get("decay")) if isinstance(memory, dict) else None


def _regularized(settings: Mapping[str, JsonValue]) -> bool | None:
    augmentation = settings.get("augmentation")
    policy = augmentation.get("auto_augment") if isinstance(augmentation, dict) else None
    return _any_above_zero(None if policy is None else int(policy != "none"), settings.get("label_smoothing"))


def _any_above_zero(*values: JsonValue) -> bool | None:
    """True as soon as one value is above 0, None as long as one that could be is not known."""
    numbers = [value if isinstance(value, int | float) else None for value in values]
    if any(number is not None and number > 0 for number in numbers):
        return True
    return None if None in numbers else False


def _total(amounts: Sequence[float | None], chain: list[Record]) -> float:
    """Sum over a trial and all of its ancestors; NaN where one is missing or does not state its amount."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(chain) and chain[-1].spec.parent is None else math.nan


def _commit(environment: Environment) -> str:
    return environment.commit + ("+changes" if environment.dirty else "")


def _inherited(chain: list[Record], key: str) -> float | None:
    return next((value for one in chain if (value := _number(one.spec.settings, key)) is not None), None)


def _number(settings: Mapping[str, JsonValue], key: str) -> float | None:
    value = settings.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
