"""The studies under attack: seconds long, all stages, in three variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from studies import tiny

Variant = Literal["plain", "gang", "search"]
VARIANTS: tuple[Variant, ...] = ("plain", "gang", "search")
EPOCHS = {"pretrain": 30, "linear": 20, "finetune": 20, "supervised": 20, "distill": 20}


def study(variant: Variant, source: str = "digits") -> dict[str, Any]:
    """A study whose trainings take some seconds together; `source` is the digits, or a folder with their shards.

    `plain` has all stages at two sizes. `gang` has a pretraining of two workers. `search` has a journal of samples.
    """
    made = tiny(name=f"chaos-{variant}")
    made["data"]["source"] = source
    made["execution"]["checkpoint_seconds"] = 0.1
    for stage, epochs in EPOCHS.items():
        made["stages"][stage]["optimization"]["epochs"] = epochs
    if variant == "plain":
        made["grid"]["architecture"] = ["r10w0.0625", "r10w0.125"]
    elif variant == "gang":
        made["stages"] = {stage: made["stages"][stage] for stage in ("pretrain", "linear")}
        made["execution"]["workers"] = 2
    else:
        made["stages"] = {"supervised": made["stages"]["supervised"]}
        made["stages"]["supervised"]["search"] = {"learning_rate": {"log": [0.01, 0.3]}, "trials": 5}
    return made


def write_study(path: Path, variant: Variant, source: str = "digits") -> Path:
    path.write_text(yaml.safe_dump(study(variant, source)), encoding="utf-8")
    return path


def shards_of(storage: Path) -> str:
    """The folder of shards that the undisturbed study made."""
    [manifest] = storage.glob("data/*/manifest.json")
    return str(manifest.parent)
