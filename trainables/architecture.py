"""Architectures by their names, and what is counted of a projection head, without torch."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from trainables import networks
from trainables.networks.architecture import Architecture, Family

MOST_NAME = 40  # characters
PROJECTION_DIM = 128  # output of the projection head at every width, official code


@cache
def families() -> tuple[Family, ...]:
    """All families of architectures: what the files `trainables/networks/*_family.py` call FAMILY, by file name."""
    names = sorted(module.name for module in iter_modules(networks.__path__) if module.name.endswith("_family"))
    found = tuple(import_module(f"trainables.networks.{name}").FAMILY for name in names)
    assert found and all(isinstance(family, Family) for family in found), names
    return found


@cache
def parse_architecture(name: str) -> Architecture:
    """The architecture of a name, from the first family whose pattern matches it.

    Raises ValueError, naming the nearest valid spelling of all families, for anything else: a name that no family
    knows, or a second spelling of a valid architecture (`r50w1`, `R50`, `resnet50`).
    """
    if len(name) > MOST_NAME:
        raise ValueError(f"an architecture's name has {len(name):,} characters; expected at most {MOST_NAME}")
    family = next((family for family in families() if family.pattern.fullmatch(name)), None)
    found = None if family is None else family.parse(name)
    if found is not None:
        return found
    near = _nearest(name, families() if family is None else (family,))
    expected = "; or ".join(family.spelling for family in families())
    raise ValueError(f"unknown architecture {name!r}; the nearest is {near.name!r}. Expected {expected}")


def _nearest(name: str, asked: tuple[Family, ...]) -> Architecture:
    """Of what each family takes a name for, the architecture whose own name is most like it."""
    proposals = [near for family in asked if (near := family.nearest(name)) is not None]
    return max(proposals, key=lambda one: difflib.SequenceMatcher(None, name.lower(), one.name).ratio())


def head_flops(architecture: Architecture, depth: int, layers: int) -> int:
    """FLOPs of one image's forward pass through the first `layers` layers of a projection head of `depth` layers."""
    if not 0 <= layers <= depth or depth < 1:
        raise ValueError(
            f"expected a projection head of at least 1 layer and 0 to all of them, found {layers} of {depth}"
        )
    dim = architecture.feature_dim
    return 2 * (min(layers, depth - 1) * dim * dim + (layers == depth) * dim * PROJECTION_DIM)
