"""Batches of decoded images, and the threads that decode them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from datasets.blocks import EncodedRows
from datasets.decode import decode_examined

DECODE_ROWS = 32  # images of one decoding task: handing one over costs as much as decoding a tiny PNG


@dataclass(frozen=True)
class Batch:
    """n images on the CPU.

    `ids` int64 (n,), rows of the source; `epochs` int64 (n,), the pass in which each row is drawn, 0 in evaluation;
    `images` uint8 (n, 3, H, W), zero-padded at the bottom and the right to the largest of the batch; `sizes` int64 (n,
    2), each image's height and width; `labels` int64 (n,), -1 = unlabelled.
    """

    ids: torch.Tensor
    epochs: torch.Tensor
    images: torch.Tensor
    sizes: torch.Tensor
    labels: torch.Tensor


def stack(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad n images uint8 (3, h, w) with zeros to the largest: uint8 (n, 3, H, W), and their sizes int64 (n, 2)."""
    sizes = torch.tensor([image.shape[1:] for image in rows]).reshape(-1, 2)
    if len(rows) and bool((sizes == sizes[0]).all()):
        return torch.stack(list(rows)), sizes
    height, width = (int(side) for side in sizes.amax(dim=0))
    canvas = torch.zeros(len(rows), 3, height, width, dtype=torch.uint8)
    for number, image in enumerate(rows):
        canvas[number, :, : image.shape[1], : image.shape[2]] = image
    return canvas, sizes


def decode_rows(pool: ThreadPoolExecutor, rows: EncodedRows, epochs: NDArray[np.int64], max_side: int) -> Batch:
    """Decode n rows, seen in `epochs` (n,), with the threads of `pool`."""
    starts = range(0, len(rows.images), DECODE_ROWS)
    decoded = pool.map(lambda start: decode_all(rows.images[start : start + DECODE_ROWS], max_side), starts)
    images, sizes = stack([image for part in decoded for image in part])
    return Batch(torch.from_numpy(rows.ids), torch.from_numpy(epochs), images, sizes, torch.from_numpy(rows.labels))


def decode_all(images: Sequence[pa.Scalar], max_side: int) -> list[torch.Tensor]:
    """Decode images that were decoded before, when they were sharded."""
    return [decode_examined(image.as_py(), max_side) for image in images]
