"""What a folder of shards holds: the columns of a shard and the manifest beside the shards."""

from __future__ import annotations

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

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


Natural = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Rank = Annotated[float, Strict(), Field(ge=0, lt=1)]
Positive = Annotated[int, Strict(), Field(ge=1, lt=2**63)]


class Checksums(BaseModel):
    """XXH3 (128 bits, hexadecimal) of a shard's bytes: of its last `footer_bytes`, and, for each row group, of its
    images and of what lies around them (`datasets.checksums`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    footer_bytes: Positive
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
    name: Annotated[str, Field(pattern=r"^(train|test)-\d{10}\.parquet$")]
    rows: Positive
    bytes: Positive
    sha256: str
    first_position: Natural
    first_label_rank: Rank | None  # of the first row; None when it is unlabelled or a test row
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
    label_seed: Natural
    train_limit: Positive | None
    test_limit: Positive | None
    train_images: Positive
    labelled_images: Natural
    test_images: Positive
    class_counts: tuple[Natural, ...]
    test_class_counts: tuple[Natural, ...]
    image_bytes: Positive
    min_height: Positive
    max_height: Positive
    min_width: Positive
    max_width: Positive
    mean_pixels: Annotated[float, Strict(), Field(gt=0, le=1e12, allow_inf_nan=False)]
    row_group_rows: Positive
    files: tuple[ShardFile, ...]
    source: str
    source_signature: str
    fingerprint: str

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        """Files follow each other without a gap, and counts add up: readers rely on it."""
        for split in SPLITS:
            position = 0
            for file in self.split_files(split):
                if file.first_position != position or not file.name.startswith(split):
                    raise ValueError(f"{file.name} begins at row {file.first_position:,}; expected {position:,}")
                position += file.rows
                groups = -(-file.rows // self.row_group_rows)
                if file.checksums and not len(file.checksums.images) == len(file.checksums.others) == groups:
                    raise ValueError(f"{file.name} has {groups:,} row groups; expected a checksum of each")
            if position != self.split_images(split):
                raise ValueError(f"its {split} files have {position:,} rows; expected {self.split_images(split):,}")
        ranks = [1.0 if file.first_label_rank is None else file.first_label_rank for file in self.split_files("train")]
        if ranks != sorted(ranks) or (ranks[0] == 0) != (self.labelled_images > 0):
            raise ValueError("the label ranks of its training files do not ascend from 0")
        if sum(self.class_counts) != self.labelled_images or self.labelled_images > self.train_images:
            raise ValueError("the classes' counts do not add up to the labelled images")
        if not len(self.classes) == len(self.class_counts) == len(self.test_class_counts):
            raise ValueError("it has other numbers of classes and of counts")
        return self

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
