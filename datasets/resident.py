"""Decoded images kept in memory, shared by the trials that run one after another in a process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from datasets.batches import DECODE_ROWS, Batch, decode_all, stack
from datasets.blocks import read_rows
from datasets.schema import Manifest, Split
from datasets.threads import ordered_map

RESIDENT_BYTES = 2 * 2**30

Key = tuple[str, Split, int]  # fingerprint, split, max_side


@dataclass(frozen=True)
class Resident:
    """Decoded rows `start` to `start + n` of a split: `images` uint8 (n, 3, H, W), or a list where sizes differ."""

    start: int
    ids: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor | list[torch.Tensor]

    @property
    def stop(self) -> int:
        """The position after the last row."""
        return self.start + len(self.ids)

    @property
    def bytes(self) -> int:
        """The size of the decoded images."""
        return sum(image.nbytes for image in self.images) if isinstance(self.images, list) else self.images.nbytes

    def batch(self, positions: NDArray[np.int64], epochs: NDArray[np.int64]) -> Batch:
        """Return the rows at `positions` (n,) of the split, seen in `epochs` (n,)."""
        index = torch.from_numpy(positions - self.start)
        if isinstance(self.images, list):
            images, sizes = stack([self.images[number] for number in index.tolist()])
        else:
            images = self.images[index]
            sizes = torch.tensor(images.shape[2:]).repeat(len(index), 1)
        return Batch(self.ids[index], torch.from_numpy(epochs), images, sizes, self.labels[index])


_cache: OrderedDict[tuple[Key, int], Resident] = OrderedDict()
_lock = threading.Lock()


def decoded_bytes(manifest: Manifest, rows: int, max_side: int) -> float:
    """Return the expected size of `rows` decoded images: from the manifest alone, so that all ranks agree."""
    return rows * 3 * min(manifest.mean_pixels, max_side**2)


def resident_rows(
    shards_uri: str, manifest: Manifest, split: Split, start: int, stop: int, *, max_side: int, threads: int, limit: int
) -> Resident:
    """Return rows `start` to `stop` of a split decoded, from memory where this process has them.

    Images decoded for earlier calls are kept, the most recently used ones up to twice `limit` bytes: training and test
    images.
    """
    key: Key = (manifest.fingerprint, split, max_side)
    with _lock:
        for (cached_key, first), cached in _cache.items():
            if cached_key == key and cached.start <= start and stop <= cached.stop:
                _cache.move_to_end((cached_key, first))
                return cached
        loaded = _load(shards_uri, manifest, split, start, stop, max_side, threads)
        _cache[key, start] = loaded
        _cache.move_to_end((key, start))
        while len(_cache) > 1 and sum(cached.bytes for cached in _cache.values()) > 2 * limit:
            _cache.popitem(last=False)
        return loaded


def _load(
    shards_uri: str, manifest: Manifest, split: Split, start: int, stop: int, max_side: int, threads: int
) -> Resident:
    count = stop - start
    ids, labels = np.empty(count, np.int64), np.empty(count, np.int64)
    one_size = manifest.min_height == manifest.max_height and manifest.min_width == manifest.max_width
    images: list[torch.Tensor] = []
    canvas: torch.Tensor | None = None

    def parts() -> Iterator[list[pa.Scalar]]:
        filled = 0
        for rows in read_rows(shards_uri, manifest, split, start, stop):
            ids[filled : filled + len(rows.ids)] = rows.ids
            labels[filled : filled + len(rows.ids)] = rows.labels
            filled += len(rows.ids)
            for first in range(0, len(rows.ids), DECODE_ROWS):
                yield rows.images[first : first + DECODE_ROWS]
        assert filled == count, "the shards hold fewer rows than their manifest"

    with ThreadPoolExecutor(threads) as pool:
        filled = 0
        for part in ordered_map(pool, lambda rows: decode_all(rows, max_side), parts(), ahead=4 * threads):
            if not one_size:
                images += part
                continue
            if canvas is None:
                canvas = torch.empty(count, *part[0].shape, dtype=torch.uint8)
            canvas[filled : filled + len(part)] = torch.stack(part)
            filled += len(part)
    return Resident(start, torch.from_numpy(ids), torch.from_numpy(labels), images if canvas is None else canvas)
