"""The paper's own numbers: its trainings as records, and the other methods that it compares with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from reports.records import Record
from reports.tables import trials

PROTOCOL = 0  # of no version of this code
DATA = {"name": "imagenet", "image_size": 224, "classes": 1000}
FINGERPRINT = "ILSVRC-2012"
FRACTIONS = {"1": 0.01, "10": 0.1}  # percent of the labels, as the file of numbers names them


@cache
def records() -> list[Record]:
    """The trainings behind Tables 1, 2, 3, G.1 and G.2 of the SimCLRv2 paper, parents first; `source` is "paper".

    Thirteen architectures, each pretrained with memory (no metric of its own), fine-tuned on 1 %, 10 % and 100 % of
    ImageNet's labels, evaluated linearly and trained supervised; the students and supervised baselines of Tables 2
    and 3; and the one pretraining without memory for which the authors gave a number, outside of the paper. Rates are
    in [0, 1]. The paper states neither seeds, nor seconds, nor machines, so these are null; FLOPs and images seen are
    computed from its recipes.
    """
    tables = _tables()
    return [Record.model_validate(_record(training, tables)) for training in tables["trainings"]]


@cache
def table() -> pd.DataFrame:
    """`tables.trials` of the paper's records; not to be changed in place."""
    return trials(records())


def table_1() -> pd.DataFrame:
    """The 65 trainings of `table` whose top-1 is in Table 1 and whose top-5 is in Table G.1."""
    of_table_1 = table()["study"] == "SimCLRv2, Tables 1 and G.1"
    return table()[of_table_1].reset_index(drop=True)


@cache
def other_methods() -> pd.DataFrame:
    """Other people's results in Tables 3 and G.2, one row a method, architecture and share of the labels.

    Columns: method, architecture (both as the paper spells them), concurrent (published at the same time), in_table_3
    (all are in G.2), label_fraction, top1, top5 (in [0, 1], NaN where not reported).
    """
    rows = [
        {
            **{key: method[key] for key in ("method", "architecture", "concurrent", "in_table_3")},
            "label_fraction": fraction,
            **dict(zip(("top1", "top5"), map(_rate, method[percent]), strict=True)),
        }
        for method in _tables()["other_methods"]
        for percent, fraction in FRACTIONS.items()
    ]
    return pd.DataFrame(rows).astype({"top1": "float64", "top5": "float64"})


@cache
def _tables() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / "paper_tables.json").read_text(encoding="utf-8"))
    return content


def _record(training: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """A training with its recipe, as a record's plain types."""
    recipe = tables["recipes"][training["recipe"]]
    fraction = recipe["settings"].get("label_fraction")
    metrics = {name: _rate(training[name]) for name in ("top1", "top5") if training[name] is not None}
    return {
        "format": 1,
        "id": training["id"],
        "study": f"SimCLRv2, {training['table']}",
        "source": "paper",
        "spec": {
            "protocol": PROTOCOL,
            "stage": training["stage"],
            "data": DATA,
            "architecture": training["architecture"],
            "seed": None,
            "parent": training["parent"],
            "settings": recipe["settings"],
        },
        "metrics": metrics,
        "history": [],
        "model": {
            "encoder_parameters": tables["encoder_parameters"][training["architecture"]],
            "parameters": None,
        },
        "cost": {
            "wall_seconds": None,
            "device_seconds": None,
            "images": recipe["images_seen"],
            "train_flops": float(training["train_flops"]),
            "sessions": None,
        },
        "resources": None,
        "data": {
            "fingerprint": FINGERPRINT,
            "train_images": tables["images"]["train"],
            "labelled_images": tables["labels"][str(fraction)] if fraction else 0,
            "test_images": tables["images"]["test"],
            "subset_hash": None,
        },
        "environment": None,
        "started_at": None,
        "finished_at": None,
    }


def _rate(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100, 6)
