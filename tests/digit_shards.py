"""Shards of scanned digits written without Ray, whose labels and pixels a test can change."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from datasets.checksums import checksums_of
from datasets.manifest import manifest_text, read_manifest
from datasets.schema import FORMAT_VERSION, MANIFEST_NAME, SCHEMA, Manifest
from datasets.splits import label_hash, label_ranks

TRAIN, LABELLED, TEST = 200, 140, 270  # more test images than are evaluated at once
CLASSES, SIZE, GROUP = 10, 8, 16


@dataclass(frozen=True)
class Digits:
    """Training rows in the order of their label ranks, then test rows: ids (n,), gray pixels (n, 8, 8), labels (n,)."""

    ids: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]
    ranks: NDArray[np.float64]  # of the training rows

    def known(self, fraction: float) -> int:
        """Number of training rows with a label rank below `fraction`."""
        return int((self.ranks < fraction).sum())

    def relabelled(self, first: int, stop: int = LABELLED) -> Digits:
        """The training rows `first` to `stop` have other labels, at the same ranks."""
        labels = self.labels.copy()
        labels[first:stop] = (labels[first:stop] + 1) % CLASSES
        return replace(self, labels=labels)

    def unlabelled(self) -> Digits:
        """No training row has a label; the order is the same."""
        labels, ranks = self.labels.copy(), np.full(TRAIN, np.nan)
        labels[:TRAIN] = -1
        return replace(self, labels=labels, ranks=ranks)

    def repainted(self, first: int) -> Digits:
        """The training rows from `first` on are other images."""
        pixels = self.pixels.copy()
        pixels[first:TRAIN] = 255 - pixels[first:TRAIN]
        return replace(self, pixels=pixels)


def digits() -> Digits:
    """200 training rows, the last 60 without label, and 270 test rows."""
    found = load_digits()
    pixels = np.round(found.images * 255 / 16).astype(np.uint8)[: TRAIN + TEST]
    labels = found.target.astype(np.int32)[: TRAIN + TEST]
    labels[LABELLED:TRAIN] = -1
    ranks = label_ranks(labels[:TRAIN], seed=0)
    order = np.concatenate([np.argsort(ranks, kind="stable"), np.arange(TRAIN, TRAIN + TEST)])
    return Digits(order, pixels[order], labels[order], np.sort(ranks))


def write(digits: Digits, folder: Path) -> str:
    """Write two training shards and one test shard with their manifest; returns the folder."""
    folder.mkdir()
    split_at = 6 * GROUP
    files = [
        _write_shard(digits, folder, "train", 0, split_at),
        _write_shard(digits, folder, "train", split_at, TRAIN),
        _write_shard(digits, folder, "test", TRAIN, TRAIN + TEST),
    ]
    train, test = digits.labels[:TRAIN], digits.labels[TRAIN:]
    plain = {
        "format_version": FORMAT_VERSION,
        "classes": tuple(map(str, range(CLASSES))),
        "label_seed": 0,
        "train_limit": None,
        "test_limit": None,
        "train_images": TRAIN,
        "labelled_images": int((train >= 0).sum()),
        "test_images": TEST,
        "class_counts": tuple(np.bincount(train[train >= 0], minlength=CLASSES).tolist()),
        "test_class_counts": tuple(np.bincount(test, minlength=CLASSES).tolist()),
        "image_bytes": sum(file["bytes"] for file in files),
        **{name: SIZE for name in ("min_height", "max_height", "min_width", "max_width")},
        "mean_pixels": float(SIZE**2),
        "row_group_rows": GROUP,
        "files": files,
        "source": "digits",
        "source_signature": "digits",
        "fingerprint": hashlib.sha256("".join(file["sha256"] for file in files).encode()).hexdigest(),
    }
    (folder / MANIFEST_NAME).write_bytes(manifest_text(Manifest.model_validate(plain)))
    return str(folder)


def forget_checksums(shards: str) -> Manifest:
    """Make shards those of a version that noted no checksums; returns their manifest."""
    manifest = read_manifest(shards)
    files = tuple(file.model_copy(update={"checksums": None}) for file in manifest.files)
    old = manifest.model_copy(update={"files": files})
    plain = old.model_dump_json(exclude={"files": {"__all__": {"checksums"}}})
    Path(shards, MANIFEST_NAME).write_text(plain)
    return old


def _write_shard(digits: Digits, folder: Path, split: str, first: int, stop: int) -> dict[str, Any]:
    position = first - (TRAIN if split == "test" else 0)
    labels = digits.labels[first:stop]
    ranks = digits.ranks[first:stop] if split == "train" else np.full(stop - first, np.nan)
    columns = {
        "id": digits.ids[first:stop],
        "image": pa.array([_png(row) for row in digits.pixels[first:stop]], pa.binary()),
        "label": pa.array(labels, pa.int32(), mask=labels < 0),
        "label_rank": pa.array(ranks, pa.float64(), mask=np.isnan(ranks)),
    }
    path = folder / f"{split}-{position:010d}.parquet"
    pq.write_table(pa.table(columns, schema=SCHEMA), path, row_group_size=GROUP)
    return {
        "split": split,
        "name": path.name,
        "rows": stop - first,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "first_position": position,
        "first_label_rank": None if np.isnan(ranks[0]) else float(ranks[0]),
        "labels_sha256": label_hash(digits.ids[first:stop], labels),
        "checksums": checksums_of(pa.py_buffer(path.read_bytes())),
    }


def relabel(shards: str, name: str) -> None:
    """Exchange two labels of one shard, in a file of the same size; the manifest stays as it is."""
    path = Path(shards, name)
    size, table = path.stat().st_size, pq.read_table(path)
    labels = table["label"].to_pylist()
    assert labels[14] != labels[15]
    labels[14], labels[15] = labels[15], labels[14]
    column = table.schema.get_field_index("label")
    table = table.set_column(column, table.schema.field("label"), pa.array(labels, pa.int32()))
    pq.write_table(table, path, row_group_size=GROUP)
    assert path.stat().st_size == size


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
