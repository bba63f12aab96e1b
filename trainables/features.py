"""Features of a fixed encoder, computed once: linear evaluation trains on them, nearest neighbors compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.batches import Batch
from datasets.schema import Split
from datasets.splits import row_ids
from trainables.collectives import all_gather, world_size
from trainables.context import Context
from trainables.evaluation import evaluating
from trainables.protocol import ProtocolError, RowCount
from trainables.stage import Assignment


@dataclass(frozen=True)
class Features:
    """n images as an encoder describes them, on the CPU.

    `ids` int64 (n,), rows of the source; `features` floats (n, d); `labels` int64 (n,), -1 = unlabelled.
    """

    ids: Tensor
    features: Tensor
    labels: Tensor


def encode(encoder: nn.Module, batches: Iterable[Batch], view: Callable[[Batch], Tensor], rows: int) -> Features:
    """Features (rows, d) of all batches' images, in order, from an encoder in inference mode, which is then restored.

    `view` gives a batch's images, floats (n, 3, S, S), on the encoder's device; the encoder maps them to (n, d). The
    features have the type of the encoder's parameters; without any row d is unknown, and 0.

    Raises:
        ProtocolError: the batches hold more or fewer than `rows` rows.
    """
    dtype = next((parameter.dtype for parameter in encoder.parameters()), torch.get_default_dtype())
    ids, labels = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
    features = torch.empty(rows, 0, dtype=dtype)
    filled = 0
    with evaluating(encoder):
        for batch in batches:
            part = slice(filled, filled + len(batch.ids))
            filled = part.stop
            _check_rows(filled <= rows, f"{filled} or more", rows)
            encoded = encoder(view(batch))
            if part.start == 0:
                with torch.inference_mode(False):  # training may follow on them, which inference tensors refuse
                    features = torch.empty(rows, encoded.shape[1], dtype=dtype)
            ids[part], features[part], labels[part] = batch.ids, encoded.cpu(), batch.labels
    _check_rows(filled == rows, str(filled), rows)
    return Features(ids, features, labels)


def gather_features(features: Features, rows: int, device: torch.device | str = "cpu") -> Features:
    """All ranks' features in rank order, the same on every rank; `rows` is their number.

    Ranks may hold different numbers of rows, or none. The exchange goes over `device`: NCCL needs a GPU's memory, which
    must hold all features twice.

    Raises:
        ProtocolError: the parts have more or fewer than `rows` rows in all; on every rank.
    """
    if world_size() == 1:
        _check_rows(len(features.ids) == rows, str(len(features.ids)), rows)
        return features
    shapes = all_gather(torch.tensor(features.features.shape, device=device)).cpu()
    lengths, widths = shapes[:, 0], shapes[:, 1]
    _check_rows(int(lengths.sum()) == rows, str(int(lengths.sum())), rows)
    longest, width = int(lengths.max()), int(widths.max())
    held = torch.arange(longest) < lengths[:, None]  # (ranks, longest): rows that are not padding

    def put_together(part: Tensor, shape: tuple[int, ...]) -> Tensor:
        padded = part.new_zeros(shape, device=device)
        padded[tuple(slice(size) for size in part.shape)] = part.to(device)
        return all_gather(padded).cpu()[held]

    return Features(
        put_together(features.ids, (longest,)),
        put_together(features.features, (longest, width)),
        put_together(features.labels, (longest,)),
    )


def _check_rows(fits: bool, found: str, rows: int) -> None:
    if not fits:
        raise ProtocolError(f"found features of {found} rows, expected one of each of {rows} rows")


def encode_split(
    encoder: nn.Module,
    assignment: Assignment,
    split: Split,
    rows: int,
    context: Context,
    dtype: torch.dtype,
    done: float,
) -> Features:
    """This rank's share of the features of the first `rows` rows of a split, seen as in evaluation.

    `done`: the share of the training's steps that are done by now, for the report.

    Raises:
        ProtocolError: the ranks together did not see each of these rows exactly once.
    """

    def view(batch: Batch) -> Tensor:
        context.attend(done)
        return assignment.eval_view(batch, context, dtype)

    share = (context.rank + 1) * rows // context.world_size - context.rank * rows // context.world_size
    features = encode(encoder, assignment.eval_batches(split, rows, context), view, share)
    seen = RowCount(context.device)
    seen.add(features.ids)
    seen.check(f"the features of the {split} images", row_ids(assignment.shards, assignment.manifest, split, rows))
    return features
