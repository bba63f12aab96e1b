"""Label fractions: which labelled images belong to a fraction, decided once for all fractions."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.manifest import change_times, read_labels
from datasets.schema import SPLITS, Manifest, ShardFile, Split


def label_ranks(labels: NDArray[np.int32], seed: int) -> NDArray[np.float64]:
    """Give every labelled image a rank in [0, 1), so that the images with rank < f are the label fraction f.

    The classes take turns, so that the counts are those of ImageNet's published subsets, on which SimCLRv2 was measured
    (section 3.1): 12,811 images at 1 %, 12 or 13 of every class, and 128,116 at 10 %, 128 or 129 of every class. In
    each round every class that still has images gives its next one, in an order shuffled by (seed, class); the k-th
    image in this order, from 1, has the largest rank below k / n. The first image of each class gets rank 0, so that no
    fraction lacks a class. Hence fraction f of n labelled images in C classes holds exactly max(C, floor(f n)) images,
    fractions are nested, and the counts of two classes differ by at most one unless the smaller class is used up.

    `labels`: (n,), -1 = unlabelled. Returns float64 (n,), NaN for unlabelled.
    """
    ranks = np.full(len(labels), np.nan)
    labelled = np.flatnonzero(labels >= 0)
    classes, class_index = np.unique(labels[labelled], return_inverse=True)
    by_class = np.argsort(class_index, kind="stable")
    starts = np.searchsorted(class_index[by_class], np.arange(len(classes) + 1))
    rounds = np.empty(len(labelled), np.int64)
    for index, label in enumerate(classes):
        members = by_class[starts[index] : starts[index + 1]]
        rounds[members] = np.random.default_rng([seed, int(label)]).permutation(len(members))
    turn = np.random.default_rng(seed).permutation(len(classes))[class_index]
    order = np.lexsort((turn, rounds))
    ranks[labelled[order]] = np.nextafter(np.arange(1, len(order) + 1) / max(1, len(order)), 0)
    ranks[labelled[rounds == 0]] = 0.0
    return ranks


def balanced_subset(labels: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    """Return the sorted indices of `limit` rows, class-balanced, with the labelled share of the whole.

    `labels`: (n,), -1 = unlabelled. Raises ValueError when `limit` exceeds the rows or is too small for one labelled
    image of each class.
    """
    if not 1 <= limit <= len(labels):
        raise ValueError(
            f"a limit of {limit} images was asked of {len(labels)}; give a limit between 1 and {len(labels)}"
        )
    ranks = label_ranks(labels, seed=0)
    labelled = np.flatnonzero(labels >= 0)
    unlabelled = np.random.default_rng(0).permutation(np.flatnonzero(labels < 0))
    keep = max(round(limit * len(labelled) / len(labels)), limit - len(unlabelled))
    classes = len(np.unique(labels[labelled]))
    if keep < classes:
        raise ValueError(
            f"a limit of {limit} images leaves {keep} labelled ones for {classes} classes; raise it to at least "
            f"{-(-classes * len(labels) // len(labelled))}, so that every class has one"
        )
    first = labelled[np.argsort(ranks[labelled], kind="stable")[:keep]]
    return np.sort(np.concatenate([first, unlabelled[: limit - keep]]))


def held_out_tenth(labels: NDArray[np.int32], names: list[str]) -> NDArray[np.bool_]:
    """Mark a tenth of every class, rounded, at least one image, chosen by a fixed seed.

    `labels`: (n,), all labelled; `names`: of the classes. Returns bool (n,). Raises ValueError naming the classes with
    one image.
    """
    counts = np.bincount(labels, minlength=len(names))
    if single := [names[label] for label in np.flatnonzero(counts < 2)]:
        raise ValueError(
            f"no test images were given and classes {single[:10]} have one image each, so none can be held out; "
            "add images to them or a folder `test`"
        )
    held_out = np.zeros(len(labels), np.bool_)
    for label, count in enumerate(counts):
        members = np.random.default_rng([0, label]).permutation(np.flatnonzero(labels == label))
        held_out[members[: max(1, round(count / 10))]] = True
    return held_out


def labelled_rows(shards_uri: str, manifest: Manifest, fraction: float) -> int:
    """Return how many leading training rows have label rank < `fraction`, in (0, 1].

    Reads the ranks of at most one shard. Raises ValueError for a fraction outside (0, 1] or shards without labels.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"found label fraction {fraction}; expected more than 0 and at most 1 (1 % is 0.01)")
    if not manifest.labelled_images:
        raise ValueError(
            f"the shards at {shards_uri!r} have no labelled training images, so they have no label fractions"
        )
    if fraction == 1:
        return manifest.labelled_images
    files = [
        file
        for file in manifest.split_files("train")
        if file.first_label_rank is not None and file.first_label_rank < fraction
    ]
    last = files[-1]  # ranks ascend over the files, so the fraction ends in the last file that begins within it
    ranks = read_labels(shards_uri, last)["label_rank"].to_numpy()
    return last.first_position + int(np.count_nonzero(ranks < fraction))


def held_out_rows(rows: int, folds: int, fold: int) -> range:
    """Return the positions that a fold holds out: the `fold`-th of `folds` equal parts of the first `rows` rows.

    Parts are counted from the end, so that fold 0 leaves a prefix, which has every class where it has as many rows as
    there are classes. Rows are in the order of their label ranks, in which the classes take turns, so each part is
    balanced as well as its size allows. Every row is in exactly one part. Raises ValueError for fewer rows than folds.
    """
    if rows < folds:
        raise ValueError(f"found {rows} labelled rows for {folds} folds; expected at least one row for each fold")
    return range(rows - (fold + 1) * rows // folds, rows - fold * rows // folds)


def label_hash(ids: NDArray[np.int64], labels: NDArray[np.int32]) -> str:
    """Return the sha256 of the pairs of id and label (-1: none), int64 little-endian, in the order of the ids."""
    pairs = np.stack([ids, labels], 1)[np.argsort(ids)]
    return hashlib.sha256(pairs.astype("<i8").tobytes()).hexdigest()


def subset_hash(shards_uri: str, manifest: Manifest, fraction: float) -> str:
    """Return the `label_hash` of a label fraction: equal for the same images with the same labels.

    Raises ValueError as `labelled_rows` and `check_labels` do.
    """
    rows = labelled_rows(shards_uri, manifest, fraction)
    ids, labels = _ids_and_labels(shards_uri, manifest, "train", rows)
    return label_hash(ids, labels)


def row_ids(shards_uri: str, manifest: Manifest, split: Split, rows: int) -> NDArray[np.int64]:
    """Return the ids (rows,) of the first `rows` rows of a split; kept in the process, since guards ask repeatedly."""
    return _ids_and_labels(shards_uri, manifest, split, rows)[0]


def check_labels(shards_uri: str, manifest: Manifest) -> None:
    """See to it that ids and labels of all shards are those that were sharded; reads no image.

    What this process has read before is read again only from files that have another time of change by now. Raises
    ValueError naming a shard whose ids or labels are others.
    """
    for split in SPLITS:
        _ids_and_labels(shards_uri, manifest, split, manifest.split_images(split))


def _ids_and_labels(
    shards_uri: str, manifest: Manifest, split: Split, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Ids and labels (rows,) of the first rows of a split; object stores answer many requests at a time."""
    files = [file for file in manifest.split_files(split) if file.first_position < rows]
    times = change_times(shards_uri, [file.name for file in files])
    with ThreadPoolExecutor(16) as pool:
        columns = list(pool.map(_columns, [shards_uri] * len(files), files, times))
    ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in columns)])
    labels = np.concatenate([np.empty(0, np.int32), *(labels for _, labels in columns)])
    return ids[:rows], labels[:rows]


@lru_cache(maxsize=4096)  # of ImageNet's 1,200 files, 15 MB
def _columns(shards_uri: str, file: ShardFile, _changed_at: int | None) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Ids and labels of one file, compared with the manifest's."""
    table = read_labels(shards_uri, file)
    ids, labels = table["id"].to_numpy(), table["label"].fill_null(-1).to_numpy()
    if file.labels_sha256 not in (None, label_hash(ids, labels)):
        raise ValueError(
            f"the labels in {file.name} at {shards_uri!r} are not those that were sharded; restore the file, or delete "
            "the folder and make the shards again from a source with the labels that are meant"
        )
    return ids, labels
