"""Sources to shards: validate every image, order by label rank, write Parquet."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from pyarrow.fs import FileType
from ray.exceptions import RayError

from datasets.blocks import TASK_RETRIES, map_blocks, ordered, quiet_ray_data
from datasets.disk import DiskError, writing
from datasets.filesystem import list_files, open_filesystem
from datasets.images import Rows, Source
from datasets.manifest import manifest_text, read_manifest
from datasets.schema import BUILT_IN_NAMES, FORMAT_VERSION, MANIFEST_NAME, Manifest, ShardFile, Split
from datasets.sources import open_source, source_signature
from datasets.splits import label_ranks
from datasets.typed_files import first_line
from datasets.urls import absolute, is_local
from datasets.writer import NAMED, ShardPlan, shard_name, write_shard

SHARD_BYTES = 128 * 2**20
COMPRESSED_BELOW = 8192  # bytes: small images of one program repeat their headers, larger ones gain nothing
WRITE_CPUS = 1
OURS = re.compile(r"(train|test)-\d{10}\.parquet(\.partial)?|manifest\.json\.partial")

logger = logging.getLogger(__name__)


def write_shards(
    source: str,
    destination: str,
    *,
    label_seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    train_images: int | None = None,
    classes: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write a source as shards, training rows ordered by (label rank, id), unlabelled rows last; return the manifest.

    Runs on Ray Data, which starts Ray unless it runs. `destination` is a folder or URI that is new, empty, or holds
    shards of the same source and settings, which are then left alone. `train_images` (after the limits) and `classes`
    are the numbers that the caller expects, compared before anything is written. `shard_bytes` is the size aimed at.
    Every image is decoded once. Raises ValueError for a faulty source, numbers other than expected, unreadable images
    (named), files that cannot be read or written, and a destination that cannot be used; DiskError for a disk that is
    full or read-only.
    """
    settings = {"label_seed": label_seed, "train_limit": train_limit, "test_limit": test_limit}
    if label_seed < 0 or shard_bytes < 1:
        raise ValueError(
            f"found label_seed {label_seed} and shard_bytes {shard_bytes}; expected 0 or more, and 1 or more"
        )
    uri = absolute(destination)
    if source not in BUILT_IN_NAMES and f"{uri}/".startswith(f"{absolute(source)}/"):
        raise ValueError(f"the destination {destination!r} lies within the source {source!r}; name another folder")
    if (finished := _prepare(uri, destination, {"source_signature": source_signature(source), **settings})) is not None:
        _check_expected(source, "training images", finished.train_images, train_images)
        _check_expected(source, "classes", len(finished.classes), classes)
        return finished
    opened = open_source(source, train_limit=train_limit, test_limit=test_limit)
    _check_expected(source, "training images", len(opened.train.ids), train_images)
    _check_expected(source, "classes", len(opened.classes), classes)
    ranks = label_ranks(opened.train.labels, label_seed)
    order = np.lexsort((opened.train.ids, ranks))  # NaN, the unlabelled, sorts last
    row_group_rows = int(np.clip(len(order) // 200, 16, 256))  # a fraction of 1 % is read in about two row groups
    try:
        train = _write_split(opened, "train", uri, opened.train.take(order), ranks[order], row_group_rows, shard_bytes)
        test = _write_split(
            opened, "test", uri, opened.test, np.full(len(opened.test.ids), np.nan), row_group_rows, shard_bytes
        )
        _raise_unreadable(source, uri, [*train, *test])
        _warn_of_doubtful(source, [*train, *test])
        manifest = _manifest(opened, train, test, row_group_rows, settings)
        with writing(*open_filesystem(uri)):
            _finish(uri, manifest)
    except DiskError:
        _delete_unfinished(uri)  # it would only take room
        raise
    return manifest


def _check_expected(source: str, what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise ValueError(
            f"the source {source!r} has {found:,} {what}, expected {expected:,}; correct the expected number, or name "
            "the source and limits that have it"
        )


def _prepare(uri: str, destination: str, inputs: dict[str, Any]) -> Manifest | None:
    """Return the manifest of finished shards made from the same inputs, or make sure that shards can be written."""
    filesystem, path = open_filesystem(uri)
    try:
        filesystem.create_dir(path, recursive=True)
        files, folders = list_files(uri, recursive=False)
        if MANIFEST_NAME in files:
            return _finished(destination, inputs)
        if foreign := sorted(name for name in [*files, *folders] if not OURS.fullmatch(name)):
            raise ValueError(
                f"the destination {destination!r} is not empty (it holds {', '.join(foreign[:10])}); "
                "name a new or empty folder"
            )
        for name in files:  # left over by a run that was interrupted
            filesystem.delete_file(f"{path}/{name}")
        with filesystem.open_output_stream(f"{path}/{shard_name('train', 0)}{_suffix(uri)}") as stream:
            stream.write(b"")
        filesystem.delete_file(f"{path}/{shard_name('train', 0)}{_suffix(uri)}")
    except OSError as error:
        raise ValueError(f"cannot write to {destination!r}: {error}; name a folder that can be written") from error
    return None


def _finished(destination: str, inputs: dict[str, Any]) -> Manifest:
    manifest = read_manifest(destination)
    differ = [
        f"{key} {getattr(manifest, key)} -> {value}" for key, value in inputs.items() if getattr(manifest, key) != value
    ]
    if differ:
        raise ValueError(
            f"{destination!r} already holds shards of {manifest.source!r} made otherwise ({', '.join(differ)}); "
            "name a new folder or delete this one"
        )
    return manifest


def discard_unfinished(destination: str) -> None:
    """Delete what a run has left that was interrupted before it had finished shards; finished ones stay."""
    uri = absolute(destination)
    filesystem, path = open_filesystem(uri)
    if filesystem.get_file_info(path).type != FileType.Directory:
        return
    files, _ = list_files(uri, recursive=False)
    if MANIFEST_NAME in files:
        return
    for name in files:
        if OURS.fullmatch(name):
            filesystem.delete_file(f"{path}/{name}")


def _suffix(uri: str) -> str:
    return (
        ".partial" if is_local(uri) else ""
    )  # an object store shows a file only when it is whole, and renames by copying


def _write_split(
    source: Source,
    split: Split,
    uri: str,
    rows: Rows,
    ranks: NDArray[np.float64],
    row_group_rows: int,
    shard_bytes: int,
) -> list[dict[str, Any]]:
    """Write the shards of one split in the order of `rows`; return what `writer.write_shard` found, in order.

    Raises ValueError with the cause's message where a task could not read or write a file, DiskError on a full disk.
    """
    mean_bytes = max(1.0, source.images.mean_bytes(rows.ids))
    plan = ShardPlan(
        split=split,
        destination=uri,
        rows_per_shard=max(1, round(shard_bytes / mean_bytes / row_group_rows)) * row_group_rows,
        row_group_rows=row_group_rows,
        compression="zstd" if mean_bytes < COMPRESSED_BELOW else "none",
        suffix=_suffix(uri),
    )
    quiet_ray_data()
    assert ray.is_initialized()  # by who knows how to keep others out of it
    columns = {
        "id": rows.ids,
        "label": pa.array(rows.labels, pa.int32(), mask=rows.labels < 0),
        "label_rank": pa.array(ranks, pa.float64(), mask=np.isnan(ranks)),
    }
    shards = []
    try:
        shared = ray.put(pa.table(columns))
        blocks = ordered(source.images.blocks(rows.ids, plan.rows_per_shard))
        # Blocks are whole shards: they must not be cut at Ray Data's usual 128 MiB.
        blocks.context.target_max_block_size = 16 * shard_bytes
        found = map_blocks(blocks, lambda block: write_shard(plan, block, ray.get(shared)), WRITE_CPUS)
        for shard in found.iter_rows():  # the first error ends the run: a full disk would fail every later shard too
            if shard["error"] is not None:
                raise (DiskError if shard["disk"] else ValueError)(shard["error"])
            shards.append(shard)
    except RayError as error:
        raise ValueError(_ended_tasks(source.name, split, error)) from error
    return sorted(shards, key=lambda shard: shard["first_position"])


def _ended_tasks(source: str, split: Split, error: RayError) -> str:
    """Say that tasks were lost in spite of repeats: Ray's own message is pages long."""
    cause = first_line(str(error)) or type(error).__name__
    return (
        f"a process that writes the {split} images of {source!r} ended {TASK_RETRIES + 1} times ({cause}); "
        "it may lack memory: shard on a machine with more, or with fewer CPUs"
    )


def _raise_unreadable(source: str, uri: str, shards: list[dict[str, Any]]) -> None:
    count = sum(shard["unreadable_count"] for shard in shards)
    if not count:
        return
    _delete_unfinished(uri)
    named = [name for shard in shards for name in shard["unreadable"]]
    raise ValueError(
        f"{count} images of {source!r} cannot be decoded: {'; '.join(sorted(named)[:NAMED])}"
        f"{' and others' if count > NAMED else ''}; replace or remove them"
    )


def _delete_unfinished(uri: str) -> None:
    filesystem, path = open_filesystem(uri)
    for name in list_files(uri, recursive=False)[0]:
        filesystem.delete_file(f"{path}/{name}")


def _warn_of_doubtful(source: str, shards: list[dict[str, Any]]) -> None:
    if count := sum(shard["doubtful_count"] for shard in shards):
        named = sorted(name for shard in shards for name in shard["doubtful"])
        logger.warning(
            "%d images of %s may be damaged: %s%s; look at them: interrupted copies leave zeros, where pictures fade",
            count,
            source,
            "; ".join(named[:NAMED]),
            " and others" if count > NAMED else "",
        )


def _manifest(
    source: Source,
    train: list[dict[str, Any]],
    test: list[dict[str, Any]],
    row_group_rows: int,
    settings: dict[str, int | None],
) -> Manifest:
    shards = [*train, *test]
    content = hashlib.sha256(f"{len(source.train.ids)} {len(source.test.ids)}\n".encode())
    for shard in shards:
        content.update(shard["digests"])
    classes = len(source.classes)
    labelled = source.train.labels[source.train.labels >= 0]
    return Manifest.model_validate(
        {
            "format_version": FORMAT_VERSION,
            "classes": source.classes,
            **settings,
            "train_images": len(source.train.ids),
            "labelled_images": len(labelled),
            "test_images": len(source.test.ids),
            "class_counts": np.bincount(labelled, minlength=classes).tolist(),
            "test_class_counts": np.bincount(source.test.labels, minlength=classes).tolist(),
            "image_bytes": sum(shard["image_bytes"] for shard in shards),
            **{name: min(shard[name] for shard in shards) for name in ("min_height", "min_width")},
            **{name: max(shard[name] for shard in shards) for name in ("max_height", "max_width")},
            "mean_pixels": sum(shard["pixels"] for shard in shards) / sum(shard["rows"] for shard in shards),
            "row_group_rows": row_group_rows,
            "files": [{name: shard[name] for name in ShardFile.model_fields} for shard in shards],
            "source": source.name,
            "source_signature": source.signature,
            "fingerprint": content.hexdigest(),
        }
    )


def _finish(uri: str, manifest: Manifest) -> None:
    """Give the shards their names, then write the manifest, which declares them complete."""
    filesystem, path = open_filesystem(uri)
    suffix = _suffix(uri)
    names = [*(file.name for file in manifest.files), MANIFEST_NAME]
    with filesystem.open_output_stream(f"{path}/{MANIFEST_NAME}{suffix}") as stream:
        stream.write(manifest_text(manifest))
    if suffix:
        for name in names:
            filesystem.move(f"{path}/{name}{suffix}", f"{path}/{name}")
