"""Names of parameters in models and checkpoints of before, which still load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

NEW_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
"""Batch norm's; its present names are torch's."""


def in_present_names(module: Mapping[str, T]) -> dict[str, T]:
    """The saved state of a module, its tensors called as they are today."""
    found = {}
    for name, value in module.items():
        owner, dot, last = name.rpartition(".")
        found[owner + dot + NEW_NAMES.get(last, last)] = value
    return found
