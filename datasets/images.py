"""What every kind of source gives: the rows of its two splits and a way to read their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from datasets.schema import Split


class Images(Protocol):
    """The encoded images of a source, by id."""

    def mean_bytes(self, ids: NDArray[np.int64]) -> float:
        """Return the (approximate) mean size in bytes of the images with these ids (n,)."""
        ...

    def blocks(self, ids: NDArray[np.int64], rows_per_block: int) -> Dataset:
        """Return a Ray dataset of blocks of `rows_per_block` rows: position int64, name string and image binary.

        Row p of the dataset is the image `ids[p]`, (n,). Files are named by `path` instead of carrying `image`. Where
        there is a column `error`, string, it says why an image could not be read; null = it was.
        """
        ...


@dataclass(frozen=True)
class Rows:
    """One split: `ids` int64 (n,) ascending, row numbers in the source; `labels` int32 (n,), -1 = unlabelled."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int32]

    def take(self, index: NDArray[np.int64]) -> Rows:
        """Return the rows at `index` (k,)."""
        return Rows(self.ids[index], self.labels[index])


@dataclass(frozen=True)
class Source:
    """A listed source: class names, rows and images; `signature` changes when the source does."""

    name: str
    signature: str
    classes: tuple[str, ...]
    train: Rows
    test: Rows
    images: Images

    def rows(self, split: Split) -> Rows:
        """Return the rows of one split."""
        return self.train if split == "train" else self.test


@dataclass(frozen=True)
class EncodedImages:
    """Images held in memory as encoded bytes; `names[i]` and `data[i]` belong to id i."""

    names: list[str]
    data: list[bytes]

    def mean_bytes(self, ids: NDArray[np.int64]) -> float:
        """See `Images`."""
        return float(np.mean([len(self.data[index]) for index in ids]))

    def blocks(self, ids: NDArray[np.int64], rows_per_block: int) -> Dataset:
        """See `Images`."""
        tables = []
        for start in range(0, len(ids), rows_per_block):
            block = ids[start : start + rows_per_block]
            columns = {
                "position": np.arange(start, start + len(block)),
                "name": pa.array([self.names[index] for index in block], pa.string()),
                "image": pa.array([self.data[index] for index in block], pa.binary()),
            }
            tables.append(pa.table(columns))
        return ray.data.from_arrow(tables)
