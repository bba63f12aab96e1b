"""Bits that rot in the files of a study: each is refused by its file's name, or changes nothing of what is read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datasets import splits
from datasets.blocks import read_rows
from datasets.manifest import read_manifest
from datasets.schema import MANIFEST_NAME
from datasets.splits import labelled_rows, row_ids, subset_hash
from digit_shards import digits, write
from trainables.checkpoint import State, save_state
from trainables.classifier import load_model
from trainables.context import Context

REFUSED, HARMLESS = "refused", "harmless"
"""What may become of a flipped bit: the file is named and not read, or what is read is what was written."""

UNSEEN, ODD = "unseen", "odd"
"""What may not: other data is read, or the error is none of ours or names no file."""


def flip_bits(seed: int, count: int, folder: Path) -> dict[str, Counter[str]]:
    """Flip `count` bits, one at a time, in each kind of file; returns by kind how often a flip had which outcome.

    `folder` is empty and may be deleted afterwards. `seed` decides which bits.
    """
    generator = random.Random(seed)
    found: dict[str, Counter[str]] = {}
    for kind, prepare in KINDS.items():
        path, read = prepare(folder / kind)
        bits = [generator.randrange(8 * path.stat().st_size) for _ in range(count)]
        found[kind] = outcomes(path, read, bits)
    return found


def outcomes(path: Path, read: Callable[[], Any], bits: list[int]) -> Counter[str]:
    """What becomes of each of these bits of a file, flipped alone; the file is then as it was."""
    content, expected = path.read_bytes(), read()
    counts: Counter[str] = Counter()
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        counts[_outcome(path, read, expected)] += 1
    path.write_bytes(content)
    return counts


def _outcome(path: Path, read: Callable[[], Any], expected: Any) -> str:
    try:
        found = read()
    except ValueError as error:
        return REFUSED if path.name in str(error) else ODD
    except Exception:
        return ODD
    if found is None:
        return REFUSED
    return HARMLESS if _same(found, expected) else UNSEEN


def _same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def small_state() -> State:
    """A few weights and numbers, as models and checkpoints have them."""
    weights = {"kernel": torch.arange(24.0).reshape(2, 3, 4), "moving": torch.full((3,), -1.5, dtype=torch.float64)}
    return {"module": weights, "head_depth": 3, "progress": {"step": 7, "history": [{"loss": 0.25}]}}


def shard(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A shard, and all that any part of a study reads of it."""
    path, read_labels = labels(folder)
    _, read_images = images(folder)
    return path, lambda: [read_labels(), read_images()]


def labels(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A shard, and what is read of its ids, labels and label ranks."""
    shards = small_shards(folder)
    manifest = read_manifest(shards)

    def read() -> dict[str, Any]:
        splits._columns.cache_clear()  # the clock of a file system may be slower than this
        return {
            "labelled rows": [labelled_rows(shards, manifest, rows / 140) for rows in (1, 15, 60)],
            "labels": subset_hash(shards, manifest, 0.5),
            "ids": torch.from_numpy(row_ids(shards, manifest, "train", 96)),
        }

    return Path(shards, manifest.files[0].name), read


def images(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A shard, and what is read of its images with their ids and labels."""
    shards = small_shards(folder)
    manifest = read_manifest(shards)

    def read() -> list[Any]:
        parts = list(read_rows(shards, manifest, "train", 0, manifest.files[0].rows))
        return [(part.ids.tolist(), part.labels.tolist(), [image.as_py() for image in part.images]) for part in parts]

    return Path(shards, manifest.files[0].name), read


def small_shards(folder: Path) -> str:
    """Shards of digits, made if they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / "shards") if (folder / "shards").exists() else write(digits(), folder / "shards")


def manifest(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """The manifest beside shards."""
    shards = small_shards(folder)
    return Path(shards, MANIFEST_NAME), lambda: read_manifest(shards)


def model(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A trained model, and how a child reads it whose parent's record is too old to name its checksum."""
    path = folder / "model.pt"
    save_state(str(path), small_state())
    return path, lambda: load_model(str(path), None)


def unsealed_model(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A model from before there were checksums."""
    folder.mkdir(parents=True)
    path = folder / "model.pt"
    torch.save(small_state(), path)
    return path, lambda: load_model(str(path), None)


def checkpoint(folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A resumable checkpoint, and how its trial reads it, for which a damaged one is none."""
    context = Context(str(folder))
    context.save_checkpoint(small_state())
    context.finish_writes()
    return folder / "latest.pt", context.latest_checkpoint


KINDS: dict[str, Callable[[Path], tuple[Path, Callable[[], Any]]]] = {
    "shard": shard,
    "labels of a shard": labels,
    "images of a shard": images,
    "manifest": manifest,
    "model.pt": model,
    "model.pt without a checksum": unsealed_model,
    "latest.pt": checkpoint,
}
