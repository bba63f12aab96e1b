"""What every stage is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.schema import Manifest, Split
from datasets.splits import held_out_rows, labelled_rows
from datasets.stream import TrainStream, eval_batches
from trainables.context import Context
from trainables.history import Progress
from trainables.loop import DTYPES
from trainables.networks.architecture import Architecture
from trainables.spec import Augmentation, DevSplit, Optimization, Resize, Settings
from trainables.views import eval_view, random_views

CANVAS = 4
"""Longer sides of images are decoded to at most this many times the training size, which bounds a batch's memory."""

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Assignment:
    """The work of one trial: what to train, on which shards, from or by which parent's model (a URI, if any).

    `parent_sha256`: of that model's file (None: nothing tells). `dev`: which training images are held out and evaluated
    on, instead of the test split.
    """

    architecture: Architecture
    image_size: int
    resize: Resize
    classes: int
    seed: int
    settings: Settings
    shards: str
    manifest: Manifest
    parent: str | None
    dev: DevSplit | None = None
    parent_sha256: str | None = None

    @property
    def held_out(self) -> range:
        """Positions of the training rows that are held out; empty without a dev split."""
        if self.dev is None:
            return range(0)
        return held_out_rows(self.labelled_rows(self.dev.label_fraction), self.dev.folds, self.dev.fold)

    @property
    def evaluated(self) -> tuple[Split, range]:
        """The split and the positions in it on which the trial is evaluated."""
        return ("test", range(self.manifest.test_images)) if self.dev is None else ("train", self.held_out)

    def trained_rows(self, rows: int) -> int:
        """How many of the first `rows` training rows are not held out."""
        assert self.held_out.stop <= rows, "what is held out lies within what would be trained on"
        return rows - len(self.held_out)

    def labelled_rows(self, label_fraction: float) -> int:
        """Number of training rows whose labels are known at a label fraction; they are the first rows of the shards."""
        return labelled_rows(self.shards, self.manifest, label_fraction)

    def stream(self, rows: int, optimization: Optimization, context: Context) -> TrainStream:
        """This rank's batches of the first `rows` training rows, the held-out ones left out."""
        return TrainStream(
            self.shards,
            rows,
            seed=self.seed,
            global_batch_size=optimization.global_batch_size,
            rank=context.rank,
            world_size=context.world_size,
            max_side=CANVAS * self.image_size,
            held_out=self.held_out,
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

    def eval_batches(self, split: Split, rows: int, context: Context, first_row: int = 0) -> Iterator[Batch]:
        """This rank's part of `rows` rows of a split from `first_row` on, in order."""
        return eval_batches(
            self.shards,
            split=split,
            rows=rows,
            first_row=first_row,
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

    `metrics` are those after the last step, never the best; `dev_` begins the names of those on a dev split.
    `label_fraction` is the fraction of the labels that was read, None if none was. `parameters` are those of the
    trained model.
    """

    metrics: dict[str, float]
    progress: Progress
    label_fraction: float | None
    parameters: int
