"""Two storages of one study: whether every record and every weight of the one equals the other's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chaos.promises import Findings

NOT_COMPARED = ("cost", "environment", "started_at", "finished_at")
"""What differs between two runs of one trial: times, how often it was interrupted, host and checkout."""

NOT_COMPARED_RESOURCES = ("node_type", "seconds_on")
TIMED = ("seconds", "per_second", "wait")
"""Names of columns of a history that end so are times, of which no two are equal."""


def compare(found: Path, undisturbed: Path, findings: Findings) -> None:
    """Note, for every trial of the undisturbed storage, whether its record and its weights are equal here."""
    for path in sorted(undisturbed.glob("records/*.json")):
        name = path.stem
        difference = record_difference(found / "records" / path.name, path)
        findings.check("records", not difference, f"{name}: {difference}")
        other = weights_difference(found / f"checkpoints/{name}/model.pt", undisturbed / f"checkpoints/{name}/model.pt")
        findings.check("weights", not other, f"{name}: {other}")
    wanted = {path.name for path in undisturbed.glob("records/*.json")}
    more = sorted(path.name for path in found.glob("records/*") if path.name not in wanted and path.name[0] != ".")
    findings.check("records", not more, f"records that the undisturbed study does not have: {', '.join(more)}")


def record_difference(found: Path, undisturbed: Path) -> str:
    """The first thing in which two records differ, as words; empty where they are equal."""
    if not found.exists():
        return "the record is lost"
    try:
        plain = json.loads(found.read_bytes())
    except ValueError as error:
        return f"the record is no JSON: {error}"
    return _first_difference(comparable(plain), comparable(json.loads(undisturbed.read_bytes())), "record")


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between two runs of the same trial."""
    kept = {key: value for key, value in record.items() if key not in NOT_COMPARED}
    resources = kept.get("resources") or {}
    kept["resources"] = {key: value for key, value in resources.items() if key not in NOT_COMPARED_RESOURCES}
    kept["history"] = [
        {name: value for name, value in row.items() if not name.endswith(TIMED)} for row in record["history"]
    ]
    return kept


def _first_difference(one: Any, other: Any, where: str) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if (key in one) != (key in other):
                return f"{where}.{key} is {'there' if key in one else 'missing'}"
            if difference := _first_difference(one[key], other[key], f"{where}.{key}"):
                return difference
        return ""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        differences = (
            _first_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True))
        )
        return next((text for text in differences if text), "")
    return "" if one == other else f"{where} is {str(one)[:80]}, undisturbed {str(other)[:80]}"


def weights_difference(found: Path, undisturbed: Path) -> str:
    """In what two files of weights differ, as words; empty where every value in them is equal to the bit.

    Files of equal bytes are equal; others are loaded, since what surrounds the tensors may be written otherwise.
    """
    if not undisturbed.exists():
        return "" if not found.exists() else "weights that the undisturbed study did not keep"
    if not found.exists():
        return "the weights are lost"
    if found.read_bytes() == undisturbed.read_bytes():
        return ""
    import torch

    try:
        one = torch.load(found, weights_only=True)
    except Exception as error:  # a broken file is a finding like any other, whatever torch makes of it
        return f"the weights cannot be read: {type(error).__name__}: {error}"
    return _tensors_difference(one, torch.load(undisturbed, weights_only=True), "model")


def _tensors_difference(one: Any, other: Any, where: str) -> str:
    import torch

    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where} has other names: {sorted(map(str, one.keys() ^ other.keys()))}"
        found = (_tensors_difference(one[key], other[key], f"{where}.{key}") for key in one)
        return next((text for text in found if text), "")
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
        return "" if same else f"{where} has other values"
    return "" if one == other else f"{where} is {one!r}, undisturbed {other!r}"


def _bits(tensor: Any) -> Any:
    """The bytes of a tensor: not a number equals itself, and 0.0 is not -0.0."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
