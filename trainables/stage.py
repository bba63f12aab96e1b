"""What every stage is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.schema import Manifest, Split
from datasets.splits import labelled_rows
from datasets.stream import TrainStream, eval_batches
from trainables.architecture import Architecture
from trainables.context import Context
from trainables.loop import DTYPES, Progress
from trainables.resample import Resize
from trainables.spec import Augmentation, Optimization, Settings
from trainables.views import eval_view, random_views

CANVAS = 4
"""Longer sides of images are decoded to at most this many times the training size, which bounds a batch's memory."""

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Assignment:
    """The work of one trial: what to train, on which shards, from or by which parent's model (a URI, if any)."""

    architecture: Architecture
    image_size: int
    resize: Resize
    classes: int
    seed: int
    settings: Settings
    shards: str
    manifest: Manifest
    parent: str | None

    def labelled_rows(self, label_fraction: float) -> int:
        """Number of training rows whose labels are known at a label fraction; they are the first rows of the shards."""
        return labelled_rows(self.shards, self.manifest, label_fraction)

    def stream(self, rows: int, optimization: Optimization, context: Context) -> TrainStream:
        """This rank's batches of the first `rows` training rows."""
        return TrainStream(
            self.shards,
            rows,
            seed=self.seed,
            global_batch_size=optimization.global_batch_size,
            rank=context.rank,
            world_size=context.world_size,
            max_side=CANVAS * self.image_size,
        )

    def views(
        self, count: int, augmentation: Augmentation, optimization: Optimization, context: Context
    ) -> Callable[[Batch], tuple[list[Tensor], Tensor]]:
        """A function from a batch to `count` random views (n, 3, S, S) and labels (n,), on the device."""
        dtype = DTYPES[optimization.precision]

        def make(batch: Batch) -> tuple[list[Tensor], Tensor]:
            images = batch.images.to(context.device, non_blocking=True)
            views = [
                random_views(
                    images,
                    batch.sizes,
                    batch.ids,
                    batch.epochs,
                    view,
                    self.seed,
                    self.image_size,
                    augmentation,
                    dtype,
                    resize=self.resize,
                )
                for view in range(count)
            ]
            return views, batch.labels.to(context.device, non_blocking=True)

        return make

    def eval_batches(self, split: Split, rows: int, context: Context) -> Iterator[Batch]:
        """This rank's part of the first `rows` rows of a split, in order."""
        return eval_batches(
            self.shards,
            split=split,
            rows=rows,
            per_worker_batch_size=EVAL_BATCH_SIZE,
            rank=context.rank,
            world_size=context.world_size,
            max_side=CANVAS * self.image_size,
        )

    def eval_view(self, batch: Batch, context: Context, dtype: torch.dtype) -> Tensor:
        """The view (n, 3, S, S) of a batch for evaluation, on the device."""
        return eval_view(batch.images.to(context.device), batch.sizes, self.image_size, dtype, resize=self.resize)


@dataclass(frozen=True)
class Outcome:
    """The result of a stage.

    `metrics` are those after the last step, never the best. `label_fraction` is the fraction of the labels that was
    read, None if none was. `parameters` are those of the trained model.
    """

    metrics: dict[str, float]
    progress: Progress
    label_fraction: float | None
    parameters: int
