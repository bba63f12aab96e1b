"""Random numbers without state: each is a pure function of (seed, epoch, image id, view, draw).

So a number does not depend on the batch, its order, the rank or the device that it is made on, and a resumed training
needs no generator's state.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # step of SplitMix64's counter, 2^64 / golden ratio (Steele et al. 2014)
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64  # SplitMix64's multipliers, Stafford's mix 13


def mix(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014): one step of its counter, then its bijection; int64 to int64 of any shape.

    Every result occurs for exactly one argument; multiplication wraps at 2^64.
    """
    x = x + _GOLDEN
    x = (x ^ (x >> 30) & (2**34 - 1)) * _MIX_1  # the mask makes the shift a logical one
    x = (x ^ (x >> 27) & (2**37 - 1)) * _MIX_2
    return x ^ (x >> 31) & (2**33 - 1)


def random_bits(
    seed: int, epochs: Tensor, ids: Tensor, view: int, draws: int, device: torch.device | str, *, first: int = 0
) -> Tensor:
    """64 random bits, int64 (n, draws): draws `first` and following of each image's view.

    Equal on every device and in every batch. `epochs` and `ids` are int64 (n,); 0 <= seed < 2^63.
    """
    keys = mix(torch.tensor(seed, device=device))
    for part in (epochs.to(device), ids.to(device), torch.tensor(view, device=device)):
        keys = mix(keys + part * _GOLDEN)
    counters = torch.arange(first, first + draws, device=device) * _GOLDEN
    return mix(keys[:, None] + counters)


def uniforms(
    seed: int, epochs: Tensor, ids: Tensor, view: int, draws: int, device: torch.device | str, *, first: int = 0
) -> Tensor:
    """Numbers float64 (n, draws) in [0, 1), multiples of 2^-32: the upper halves of `random_bits`."""
    bits = random_bits(seed, epochs, ids, view, draws, device, first=first)
    return (bits >> 32 & (2**32 - 1)).double() * 2.0**-32
