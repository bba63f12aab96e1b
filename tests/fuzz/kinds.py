"""All kinds of input, and where each is attacked."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD = ("read", "refused", "harmless", "survived")
"""What may become of an input; `harmless` is damage that changes nothing of what is read, `survived` is an input over
which a reader's child process ended: it is refused, too."""


@dataclass(frozen=True)
class Kind:
    """`prepare`, named as MODULE:FUNCTION, makes an attack from an empty folder.

    An attack makes one input from random numbers, leaves it in the folder, and says what became of it; or it makes
    several and says how often each outcome was. ValueError and OSError are sentences for users: refused. Of all inputs
    of a run a kind gets a share in proportion to its `weight`.
    """

    prepare: str
    weight: int

    def load(self, folder: Path) -> Callable[[random.Random], str | Counter[str]]:
        module, _, function = self.prepare.partition(":")
        made: Callable[[random.Random], str | Counter[str]] = getattr(importlib.import_module(module), function)(folder)
        return made


def find(kind: str) -> Kind:
    """A kind by its name; MODULE:FUNCTION is one, too."""
    return Kind(kind, 1) if ":" in kind else KINDS[kind]


KINDS = {
    "presets": Kind("fuzz.inputs:presets", 15),
    "set": Kind("fuzz.inputs:overrides", 25),
    "studies": Kind("fuzz.studies:trees", 30),
    "only": Kind("fuzz.inputs:only", 300),
    "flags": Kind("fuzz.inputs:flags", 3),
    "records": Kind("fuzz.stored:records", 60),
    "failures": Kind("fuzz.stored:failures", 150),
    "progress": Kind("fuzz.stored:progress", 200),
    "leases": Kind("fuzz.stored:leases", 200),
    "calibrations": Kind("fuzz.stored:calibrations", 60),
    "manifests": Kind("fuzz.files:manifests", 60),
    "journals": Kind("fuzz.stored:journals", 20),
    "explorations": Kind("fuzz.decided:explorations", 10),
    "pages": Kind("fuzz.decided:pages", 2),
    "prices": Kind("fuzz.stored:prices", 40),
    "commands": Kind("fuzz.stored:commands", 2),
    "urls": Kind("fuzz.files:urls", 200),
    "images": Kind("fuzz.files:images", 15),
    "parquet": Kind("fuzz.files:parquet", 10),
    "flips": Kind("fuzz.files:flips", 1),
}
