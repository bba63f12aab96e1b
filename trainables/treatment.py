"""How an optimizer treats each parameter: the module that owns it says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Treatment:
    """Whether a parameter is decayed, and whether LARS scales its steps by its trust ratio; `kind` names it to people.

    SGD decays biases, too (official code).
    """

    kind: str
    decayed: bool
    trust_ratio: bool


KERNEL = Treatment("kernels", decayed=True, trust_ratio=True)
BIAS = Treatment("biases", decayed=False, trust_ratio=False)


@runtime_checkable
class SaysTreatment(Protocol):
    """A module with parameters of its own that are not all kernels and biases."""

    def treatment(self, name: str) -> Treatment:
        """How the module's own parameter of this name is treated."""


def treatment_of(owner: nn.Module, name: str, parameter: Tensor) -> Treatment:
    """What `owner` says of its own parameter `name`; of a layer of torch's, a kernel or a bias by its name."""
    if isinstance(owner, SaysTreatment):
        return owner.treatment(name)
    if name == "bias":
        return BIAS
    assert name == "weight" and parameter.dim() > 1, f"{type(owner).__name__} must say how its {name} is treated"
    return KERNEL
