"""What trials of different architectures, label fractions and seeds share: their settings, their ancestors' included.

Architectures may only be compared at the same settings: where trials failed, what is left of one architecture may be a
worse setting than what is left of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reports.records import Record

AXES = ("head_depth", "head_layer", "temperature", "distillation_weight", "images")
"""Settings that studies vary on purpose: never taken for a part of the recipe."""
STAGE_OF_AXIS = {"head_depth": "pretrain", "head_layer": "finetune", "temperature": "distill"}
CHOSEN_TEACHER = ("teacher.architecture", "distill.teacher", "distill.student", "distill.self_temperature")

Key = tuple[str, str]  # of settings: stage, and their text


def settings_of(chains: Sequence[Sequence[Record]]) -> list[str | None]:
    """For each trial, first in its chain of ancestors, a hash that is equal for equal settings; None where an ancestor
    is not known.

    Architecture, label fraction and seed do not count, nor does what a study's recipe makes depend on these two alone:
    what has one value for each of their pairs, and is none of `AXES`. Nor do the architectures of ancestors: only some
    students can have a bigger teacher. What was chosen on held-out images counts as chosen, whatever its value.
    """
    keys: dict[str, Key] = {chain[0].id: (chain[0].spec.stage, repr(chain[0].spec.settings)) for chain in chains}
    one_of = {keys[chain[0].id]: chain[0] for chain in chains}
    flattened = {key: _flattened(record.spec.settings) for key, record in one_of.items()}
    cells: dict[Key, set[object]] = {}
    for chain in chains:
        cells.setdefault(keys[chain[0].id], set()).add((chain[0].spec.architecture, _fraction(chain)))
    of_recipe = _of_recipe(flattened, cells)
    known: dict[object, str] = {}
    return [_hash(chain, keys, flattened, of_recipe, known) for chain in chains]


def _of_recipe(flattened: Mapping[Key, Mapping[str, str]], cells: Mapping[Key, set[object]]) -> set[tuple[str, str]]:
    """Stage and path of the settings that have one value for each architecture and label fraction."""
    paths: dict[str, set[str]] = {}
    for (stage, _), found in flattened.items():
        paths.setdefault(stage, set()).update(found)
    values: dict[tuple[str, str], dict[object, set[str | None]]] = {}
    for key, found in flattened.items():
        for path in paths[key[0]] - set(AXES):
            of_cells = values.setdefault((key[0], path), {})
            for cell in cells[key]:
                of_cells.setdefault(cell, set()).add(found.get(path))
    return {place for place, of_cells in values.items() if max(map(len, of_cells.values())) == 1}


def variant(chain: Sequence[Record], known: dict[str, str]) -> str:
    """Hash of everything that determines the first record's result, its ancestors' included, except for the seeds and
    what was chosen for each of them; `known` remembers it by the record's id.

    An ancestor that is not known stands with its id, so that results of what may be different parents stay apart.
    """
    record = chain[0]
    if record.id not in known:
        parent = variant(chain[1:], known) if len(chain) > 1 else record.spec.parent
        spec = record.spec.model_dump(mode="json")
        spec["settings"] = _without_chosen(record, spec["settings"])
        chose_teacher = any(stage == "" for stage, _ in _chosen_paths(record))
        known[record.id] = variant_of(record.source, spec, "chosen" if chose_teacher else parent)
    return known[record.id]


def variant_of(source: str, spec: Mapping[str, Any], parent: str | None) -> str:
    """Hash of a trial's specification without its seed; `parent` is its parent's variant, or id where that is unknown.

    Equal for trials that are seeds of one another.
    """
    identity = {name: value for name, value in spec.items() if name not in ("seed", "parent")}
    text = json.dumps([source, identity, parent], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def by_path(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What nested mappings hold, by dotted path."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        found |= by_path(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _flattened(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by their path, their values as JSON; the label fraction left out."""
    found = by_path(settings)
    return {path: json.dumps(value, sort_keys=True) for path, value in found.items() if path != "label_fraction"}


def _chosen_paths(record: Record) -> frozenset[tuple[str, str]]:
    """Stage and path of every setting that was chosen on held-out images before this trial was known; ("", name) of
    what chose its teacher."""
    names = [name for selection in record.selections for name in selection.chosen]
    return frozenset(
        ("", name) if name in CHOSEN_TEACHER else (STAGE_OF_AXIS.get(name, name.partition(".")[0]), _path(name))
        for name in names
    )


def _without_chosen(record: Record, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial without those that were chosen, which are named instead."""
    chosen = {path for stage, path in _chosen_paths(record) if stage == record.spec.stage}
    return {**_without(settings, chosen, ""), "chosen": sorted(chosen)} if chosen else dict(settings)


def _without(settings: Mapping[str, Any], paths: set[str], prefix: str) -> dict[str, Any]:
    return {
        name: _without(value, paths, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if prefix + name not in paths
    }


def _path(name: str) -> str:
    return name if name in STAGE_OF_AXIS else name.partition(".")[2]


def _fraction(chain: Sequence[Record]) -> object:
    return next((found for one in chain if (found := one.spec.settings.get("label_fraction")) is not None), None)


def _hash(
    chain: Sequence[Record],
    key_of: Mapping[str, Key],
    flattened: Mapping[Key, Mapping[str, str]],
    of_recipe: set[tuple[str, str]],
    known: dict[object, str],
) -> str | None:
    if chain[-1].spec.parent is not None:
        return None
    chosen = frozenset().union(*map(_chosen_paths, chain)) if any(one.selections for one in chain) else frozenset()
    counted = chain[:1] if any(stage == "" for stage, _ in chosen) else chain
    keys = tuple(key_of[one.id] for one in counted)
    place = (chain[0].source, keys, chosen)
    if place not in known:
        left_out = of_recipe | chosen
        parts = [
            [key[0], {path: value for path, value in flattened[key].items() if (key[0], path) not in left_out}]
            for key in keys
        ]
        text = json.dumps([chain[0].source, parts, sorted(chosen)], sort_keys=True)
        known[place] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return known[place]
