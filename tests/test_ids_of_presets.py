"""The trials of the presets keep their ids: results from before are found again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from study.grid import expand
from study.load import load_study

# Number of trials and SHA-256 of their ids, a line each; made by the code of protocol 3. They change only on purpose.
IDS = {
    "cifar10-small": (50, "71fe6018f985022f"),
    "cifar10": (225, "9ec3322bdaa3c9ce"),
    "digits-explore": (40, "2c993a8c0707788d"),
    "digits-search": (10, "03bf8781b9c83ba4"),
    "digits": (225, "673e856788c0bac0"),
    "imagenet-figure-d1": (18, "23ebe516b52ad551"),
    "imagenet-figure-f1": (27, "6d54620df5782968"),
    "imagenet-figure5": (39, "efe663137167881d"),
    "imagenet-table1": (104, "f065f3603f769719"),
    "imagenet-table2": (11, "47e7d08b61144ee1"),
    "imagenet-table3": (9, "262d6c2daf78702b"),
}


def test_ids_of_the_presets_are_those_of_before() -> None:
    found = {}
    for file in Path("study/presets").glob("*.yaml"):
        ids = list(expand(load_study(file).model_copy(update={"explore": None})).specs)
        found[file.stem] = (len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16])
    assert {name: found[name] for name in IDS} == IDS
