"""The trials of the presets keep their ids: results from before are found again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from studies import tiny, tiny_study
from study.grid import expand
from study.load import load_study
from study.trial import TrialSpec, canonical_json, parse_trial

# Number of trials and SHA-256 of their ids, a line each; made by the code of protocol 4. They change only on purpose.
IDS = {
    "cifar10-small": (50, "5f34a3d138daef43"),
    "cifar10": (225, "edbe08de36a534da"),
    "digits-explore": (40, "bc841d2e0d7781e8"),
    "digits-search": (10, "6898d5433680faad"),
    "digits": (225, "25694a32f7cc1efc"),
    "imagenet-figure-d1": (18, "074280ddea6228a2"),
    "imagenet-figure-f1": (27, "3a377e1e23d2b5c7"),
    "imagenet-figure5": (39, "8c8b24b493600bf5"),
    "imagenet-table1": (104, "fb97af211bba5401"),
    "imagenet-table2": (11, "6fcfe443ce12ae09"),
    "imagenet-table3": (9, "640daea4a471075a"),
}


def test_ids_of_the_presets_are_those_of_before() -> None:
    found = {}
    for file in Path("study/presets").glob("*.yaml"):
        ids = list(expand(load_study(file).model_copy(update={"explore": None})).specs)
        found[file.stem] = (len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16])
    assert {name: found[name] for name in IDS} == IDS


def supervised(**optimization: Any) -> TrialSpec:
    """The supervised trial of a small study with these settings of its optimization."""
    stages = tiny()["stages"]
    recipe = {"optimization": stages["supervised"]["optimization"] | optimization}
    [spec] = expand(tiny_study(stages={"supervised": recipe})).specs.values()
    return spec


def test_a_newer_setting_enters_an_id_only_where_it_is_not_the_default() -> None:
    adamw = supervised(optimizer="adamw")
    assert not {"beta2", "layer_decay"} & adamw.plain()["settings"]["optimization"].keys()
    assert supervised(optimizer="adamw", beta2=0.999, layer_decay=1).trial_id() == adamw.trial_id()
    changed = supervised(optimizer="adamw", beta2=0.95, layer_decay=0.5)
    assert changed.trial_id() != adamw.trial_id()
    for spec in (adamw, changed):
        again = parse_trial(spec.plain())
        assert again == spec and again.canonical() == canonical_json(spec.plain())
    assert changed.plain()["settings"]["optimization"] == adamw.plain()["settings"]["optimization"] | {
        "beta2": 0.95,
        "layer_decay": 0.5,
    }


def test_a_newer_setting_is_an_axis_of_grids_like_any_other() -> None:
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "finetune.optimization.layer_decay": [1.0, 0.65]}
    specs = [spec for spec in expand(tiny_study(grid=grid)).specs.values() if spec.stage == "finetune"]
    assert [spec.settings.optimization.layer_decay for spec in specs] == [1.0, 0.65]
