"""Where a study's shards are, and whether they hold what the study expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datasets.manifest import has_manifest, read_manifest
from datasets.schema import BUILT_IN_NAMES, Manifest
from datasets.splits import labelled_rows, subset_hash
from datasets.urls import absolute, is_local
from reports.storage import Storage
from study.config import Data, Study
from study.plan import ExpectedImages
from study.trial import DataIdentity


class ShardedImages:
    """Counts of a study's images as they are in its shards."""

    def __init__(self, shards: str, manifest: Manifest) -> None:
        self.shards, self.manifest = shards, manifest
        self.train_images = manifest.train_images
        self._hashes: dict[float, str] = {}

    def labelled(self, label_fraction: float) -> int:
        return labelled_rows(self.shards, self.manifest, label_fraction)

    def subset_hash(self, label_fraction: float) -> str:
        """What names the labelled rows of a fraction; read once, for a study may have thousands of trials."""
        if label_fraction not in self._hashes:
            self._hashes[label_fraction] = subset_hash(self.shards, self.manifest, label_fraction)
        return self._hashes[label_fraction]


def shards_of(data: Data, storage: Storage) -> str:
    """Where a study's shards are, or will be: its source if that holds shards already, else a folder of the storage."""
    source = absolute(data.source)
    if data.source not in BUILT_IN_NAMES and has_manifest(source):
        return source
    return storage.uri("data", DataIdentity.of(data).folder())


def find_images(study: Study, storage: Storage) -> ShardedImages | ExpectedImages:
    """The study's images as sharded, or, before that, as its file expects them; reads no image.

    Raises:
        ValueError: the shards hold other images than the study expects.
    """
    shards = shards_of(study.data, storage)
    if not has_manifest(shards):
        return ExpectedImages.of(study)
    manifest = read_manifest(shards)
    _check_expectations(study.data, manifest, shards)
    return ShardedImages(shards, manifest)


def make_images(study: Study, storage: Storage) -> ShardedImages:
    """Write the study's shards (by Ray Data, which must be running).

    Raises:
        ValueError: the source is missing, holds images that cannot be read, or other images than the study expects.
    """
    from datasets.shards import write_shards  # here, as it needs ray and torch, which planning does without

    data, shards = study.data, shards_of(study.data, storage)
    manifest = write_shards(
        data.source,
        shards,
        label_seed=data.label_seed,
        train_limit=data.train_limit,
        test_limit=data.test_limit,
        train_images=data.limited_train_images,
        classes=data.classes,
    )
    return ShardedImages(shards, manifest)


@contextmanager
def no_half_shards(shards: str) -> Iterator[None]:
    """A block that, if it is interrupted, leaves whole shards or none; the processes that write them end before it."""
    try:
        yield
    except KeyboardInterrupt:
        from datasets.shards import discard_unfinished

        with suppress(OSError):  # the next run deletes them before it writes its own
            discard_unfinished(shards)
        raise


def check_source(study: Study, storage: Storage) -> None:
    """Refuse a source that changed after it was sharded; a source that is out of reach (on a cluster, say) passes.

    Raises:
        ValueError: the source's files are not those that were sharded.
    """
    from datasets.sources import source_signature

    shards = shards_of(study.data, storage)
    if not has_manifest(shards) or not source_is_here(study.data, shards):
        return
    manifest = read_manifest(shards)
    signature = source_signature(study.data.source)
    if signature != manifest.source_signature:
        raise ValueError(
            f"the data set {study.data.name!r} changed: {study.data.source} is no longer what was sharded from "
            f"{manifest.source} into {shards}. Restore it, or give the changed images another data.name: results "
            "of both must not be mixed"
        )


def source_is_here(data: Data, shards: str) -> bool:
    """Whether the source can be compared with its shards: it is not the shards themselves, and it exists."""
    if data.source in BUILT_IN_NAMES:
        return True
    source = absolute(data.source)
    return is_local(source) and source != shards and Path(source).exists()


def _check_expectations(data: Data, manifest: Manifest, shards: str) -> None:
    for key in ("label_seed", "train_limit", "test_limit"):
        if getattr(manifest, key) != getattr(data, key):
            raise ValueError(
                f"the shards in {shards} were made with {key} {getattr(manifest, key)}, the study asks for "
                f"{getattr(data, key)}: correct data.{key}, or shard the images again into another folder"
            )
    for what, found, wanted, key in (
        ("training images", manifest.train_images, data.limited_train_images, "train_images"),
        ("classes", len(manifest.classes), data.classes, "classes"),
    ):
        if found != wanted:
            raise ValueError(
                f"the data set {data.name!r} ({shards}) has {found:,} {what}, the study expects {wanted:,}: "
                f"correct data.{key}, or delete {shards} if it was made from another source than {data.source}"
            )
