"""Guards of the measurement: what would make a number wrong fails the trial instead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.collectives import sum_over_ranks
from trainables.randomness import mix


class ProtocolError(RuntimeError):
    """A rule of the measurement was broken, so a number would be wrong; the trial fails instead."""


@contextmanager
def unchanged(what: str, state: Callable[[], Mapping[str, Tensor]]) -> Iterator[None]:
    """See to it that nothing inside changes a network's state by a bit.

    `state()` gives its tensors, such as a module's `state_dict`. It is called anew at the end: the tensors of the start
    stay as they were when others take their place.

    Raises:
        ProtocolError: something did.
    """
    before = fingerprint(state())
    yield
    if fingerprint(state()) != before:
        raise ProtocolError(f"{what} changed during the training, although it is to stay as it was")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, shapes and bits of tensors."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class RowCount:
    """The rows that were seen, in any order and by any rank: how many, and a checksum of their ids."""

    def __init__(self, device: torch.device) -> None:
        self.seen = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, ids: Tensor) -> None:
        """Count rows with these ids, int64 (n,)."""
        self.seen += torch.stack([torch.tensor(len(ids)), mix(ids.cpu()).sum()]).to(self.seen.device)

    def check(self, what: str, expected: NDArray[np.int64]) -> None:
        """Compare the rows that all ranks have seen with the ids (n,) of those that were to be seen once each.

        Raises:
            ProtocolError: rows are missing, seen twice, or others.
        """
        wanted = RowCount(torch.device("cpu"))
        wanted.add(torch.from_numpy(expected))
        seen = sum_over_ranks(self.seen).tolist()
        if seen != wanted.seen.tolist():
            raise ProtocolError(
                f"{what} saw {seen[0]} rows, expected each of {len(expected)} rows once"
                + ("; the number agrees, the rows do not" if seen[0] == len(expected) else "")
            )
