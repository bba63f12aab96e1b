"""What a folder of shards holds: the columns of a shard and the manifest beside the shards."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
BUILT_IN_NAMES = ("digits", "cifar10")  # sources that are names, not paths

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),  # row number in the source: training rows first, then test rows
        pa.field("image", pa.binary(), nullable=False),  # encoded bytes as they came
        pa.field("label", pa.int32()),  # index into `Manifest.classes`; null = unlabelled
        pa.field("label_rank", pa.float64()),  # in [0, 1); null = unlabelled, or a test row
    ]
)


class Checksums(BaseModel):
    """XXH3 (128 bits, hexadecimal) of a shard's bytes: of its last `footer_bytes`, and, for each row group, of its
    images and of what lies around them (`datasets.checksums`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    footer_bytes: int
    footer: str
    images: tuple[str, ...]
    others: tuple[str, ...]


class ShardFile(BaseModel):
    """One Parquet file: rows `first_position` to `first_position + rows` of its split.

    `labels_sha256` is the `splits.label_hash` of its ids and labels, against which every trial compares what it reads.
    `checksums` are those of its bytes, which are compared whenever any are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split
    name: str
    rows: int
    bytes: int
    sha256: str
    first_position: int
    first_label_rank: float | None  # rank of the first row; None when it is unlabelled or a test row
    labels_sha256: str | None = None  # None in shards from before it was noted: their labels are not compared
    checksums: Checksums | None = None  # None in shards from before they were noted: bytes that rot go unseen


class Manifest(BaseModel):
    """What was sharded, from where and with which settings; written last, so that its presence means complete shards.

    `class_counts` counts the labelled training images of each class, `image_bytes` is the sum of the encoded images of
    both splits. Heights, widths and `mean_pixels` are in pixels, after EXIF rotation, over both splits. `fingerprint`
    is a sha256 over ids, labels, label ranks and image bytes in order: equal content has equal fingerprints whatever
    the sizes of the shards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1]
    classes: tuple[str, ...]
    label_seed: int
    train_limit: int | None
    test_limit: int | None
    train_images: int
    labelled_images: int
    test_images: int
    class_counts: tuple[int, ...]
    test_class_counts: tuple[int, ...]
    image_bytes: int
    min_height: int
    max_height: int
    min_width: int
    max_width: int
    mean_pixels: float
    row_group_rows: int
    files: tuple[ShardFile, ...]
    source: str
    source_signature: str
    fingerprint: str

    @property
    def mean_image_bytes(self) -> float:
        """The mean size of an encoded image in bytes."""
        return self.image_bytes / (self.train_images + self.test_images)

    def split_files(self, split: Split) -> tuple[ShardFile, ...]:
        """Return the files of one split in order of position."""
        return tuple(file for file in self.files if file.split == split)

    def split_images(self, split: Split) -> int:
        """Return the number of images of one split."""
        return self.train_images if split == "train" else self.test_images
