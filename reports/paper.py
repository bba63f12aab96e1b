"""The paper's own numbers as facts, in the same tidy form as a study's trials."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from reports.tables import ARCHITECTURE, COLUMNS


def table_1() -> pd.DataFrame:
    """Table 1 (top-1) and Table G.1 (top-5) of the SimCLRv2 paper, one row a trained model, columns as
    `tables.trials`.

    13 architectures x (fine-tuned on 1 %, 10 %, 100 %; linear evaluation; supervised), ImageNet, rates in [0, 1]. The
    paper names neither seeds nor spreads, so `seed` is a gap and each number stands alone.
    """
    tables = _tables()
    rows = [
        _row(model, column, tables["stages"][column], *tables["labels"][column])
        for model in tables["table_1"]
        for column in tables["stages"]
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


@cache
def _tables() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / "paper_tables.json").read_text(encoding="utf-8"))
    return content


def _row(model: dict[str, Any], column: str, stage: str, label_fraction: float, labels: int) -> dict[str, Any]:
    named = ARCHITECTURE.fullmatch(model["architecture"])
    assert named is not None
    top1, top5 = model[column]
    return {
        "id": f"paper-table-1-{model['architecture']}-{column.replace('_', '-')}",
        "study": "paper",
        "source": "paper",
        "stage": stage,
        "architecture": model["architecture"],
        "depth": int(named["depth"]),
        "width": float(named["width"] or 1),
        "selective_kernels": bool(named["sk"]),
        "parameters": model["encoder_parameters"],
        "label_fraction": label_fraction,
        "labels": labels,
        "variant": "paper",
        "top1": top1 / 100,
        "top5": top5 / 100,
    }
