"""Shards that rot: each flipped bit is refused by the name of its file, and a part of a shard is verified alone."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flips
from datasets.blocks import read_rows
from datasets.checksums import DamagedError, checksums_of
from datasets.manifest import manifest_text, parse_manifest, read_labels, read_manifest
from datasets.schema import MANIFEST_NAME, SCHEMA, Manifest
from datasets.splits import label_hash, label_ranks, labelled_rows, subset_hash
from datasets.stream import TrainStream, eval_batches
from datasets.verified import open_shard
from digit_shards import digits, forget_checksums, write
from object_store import ObjectStore

FIRST = "train-0000000000.parquet"


@pytest.mark.parametrize("kind", ["shard", "labels of a shard", "images of a shard", "manifest"])
def test_no_bit_of_a_shard_or_manifest_can_flip_unseen(tmp_path: Path, kind: str) -> None:
    path, read = flips.KINDS[kind](tmp_path)
    size = path.stat().st_size
    ends = [8 * byte + byte % 8 for byte in (*range(40), *range(size - 400, size))]  # magic, ids, and the whole footer
    counts = flips.outcomes(path, read, [*ends, *random.Random(0).sample(range(8 * size), 800)])
    harmless = counts.pop(flips.HARMLESS, 0)  # of images, where only labels are read
    assert counts.keys() == {flips.REFUSED} and (harmless > 200) == (kind == "labels of a shard")


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """Shards of which one image of the first training shard and one of the test shard rotted."""
    uri = write(digits(), tmp_path / "shards")
    for name in (FIRST, "test-0000000000.parquet"):
        path = Path(uri, name)
        columns = [pq.read_metadata(path).row_group(3).column(index) for index in range(4)]
        [image] = [column for column in columns if column.path_in_schema == "image"]
        flip(path, (image.dictionary_page_offset or image.data_page_offset) + image.total_compressed_size // 2)
    return uri


def train_stream(uri: str, resident_bytes: int) -> Any:
    stream = TrainStream(uri, 90, seed=0, global_batch_size=30, max_side=8, resident_bytes=resident_bytes)
    assert stream.resident == (resident_bytes > 0)
    return stream.batch(0), stream.batch(1), stream.batch(2)


def evaluation(uri: str, resident_bytes: int) -> Any:
    return list(eval_batches(uri, split="test", per_worker_batch_size=100, max_side=8, resident_bytes=resident_bytes))


@pytest.mark.parametrize("resident_bytes", [2**30, 0], ids=["resident", "streaming"])
@pytest.mark.parametrize(("read", "name"), [(train_stream, FIRST), (evaluation, "test-0000000000.parquet")])
def test_damaged_images_are_refused_with_what_to_do(
    damaged: str, read: Callable[[str, int], Any], name: str, resident_bytes: int
) -> None:
    message = (
        f"the shard {damaged}/{name} is damaged: it is not as it was written (images of row group 3); "
        f"put the file back from a copy, or delete the folder {damaged} and make the shards again"
    )
    with pytest.raises(DamagedError, match=re.escape(message)):
        read(damaged, resident_bytes)


def test_label_fraction_that_ends_before_the_damage_is_read(damaged: str) -> None:
    """Rows 0 to 48 are in the row groups 0 to 2."""
    manifest, whole = read_manifest(damaged), digits()
    rows = [number for part in read_rows(damaged, manifest, "train", 0, 48) for number in part.ids.tolist()]
    assert rows == whole.ids[:48].tolist()
    assert labelled_rows(damaged, manifest, 0.3) == whole.known(0.3)
    assert subset_hash(damaged, manifest, 0.3) == label_hash(whole.ids[:42], whole.labels[:42])


def test_shards_on_an_object_store_are_verified(store: ObjectStore, damaged: str) -> None:
    uri = store.bucket("rotten")
    for path in Path(damaged).iterdir():
        store.client().upload_file(str(path), "rotten", f"runs/{path.name}")
    assert labelled_rows(uri, read_manifest(uri), 0.3) == 42
    store.requests.clear()
    with pytest.raises(DamagedError, match=f"the shard {uri}/{FIRST} is damaged"):
        list(read_rows(uri, read_manifest(uri), "train", 0, 96))
    got = [path for method, path in store.requests if method == "GET" and FIRST in path]
    assert len(got) == 3, "the footer once, the images twice"


class Unreliable:
    """A file of an object store whose answers are damaged on their way as often as is said."""

    def __init__(self, content: bytes, times: int) -> None:
        self.content, self.times = content, times

    def size(self) -> int:
        return len(self.content)

    def read_at(self, count: int, offset: int) -> bytes:
        part = bytearray(self.content[offset : offset + count])
        part[0] ^= self.times > 0
        self.times -= 1
        return bytes(part)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_bytes_that_were_damaged_on_their_way_are_read_once_more(shards: str, times: int) -> None:
    file = read_manifest(shards).files[0]
    stream: Any = Unreliable(Path(shards, file.name).read_bytes(), times)
    if times == 2:
        with pytest.raises(DamagedError, match=r"not as it was written \(footer\)"):
            open_shard(stream, file.name, file, [0, 5], images=True)
        return
    shard = open_shard(stream, file.name, file, [0, 5], images=True)
    for group in (0, 5):
        assert shard.read_row_group(group).equals(pq.ParquetFile(f"{shards}/{file.name}").read_row_group(group))
    with pytest.raises(AssertionError, match="only what was verified is read"):
        shard.read_row_group(2)


@pytest.mark.parametrize("change", ["longer", "shorter", "another"])
def test_file_that_is_replaced_after_its_manifest_was_read_is_refused(tmp_path: Path, change: str) -> None:
    uri = write(digits(), tmp_path / "shards")
    manifest, path = read_manifest(uri), tmp_path / "shards" / FIRST
    other = Path(write(digits().repainted(0), tmp_path / "others"), FIRST).read_bytes()
    content = {"longer": path.read_bytes() + b"PAR1", "shorter": path.read_bytes()[:-1], "another": other}[change]
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=f"the shard {path} is damaged"):
        read_labels(uri, manifest.files[0])
    with pytest.raises(DamagedError, match=f"the shard {path} is damaged"):
        list(read_rows(uri, manifest, "train", 0, 16))


def bytes_read() -> int:
    """What this process has asked its kernel to read so far, as the kernel counts it."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_small_label_fraction_reads_a_small_part_of_the_bytes(tmp_path: Path) -> None:
    """20 MB in one shard of 125 row groups."""
    rows, generator = 2000, np.random.default_rng(0)
    labels = np.arange(rows, dtype=np.int32) % 10
    order = np.argsort(ranks := label_ranks(labels, 0), kind="stable")
    table = pa.table(
        [order, [generator.bytes(10_000) for _ in range(rows)], labels[order], ranks[order]], schema=SCHEMA
    )
    pq.write_table(table, tmp_path / FIRST, row_group_size=16, compression="none")
    content = (tmp_path / FIRST).read_bytes()
    old = read_manifest(write(digits(), tmp_path / "digits"))
    file = old.files[0].model_copy(
        update={"rows": rows, "bytes": len(content), "checksums": checksums_of(pa.py_buffer(content))}
        | {"labels_sha256": label_hash(order, labels[order])}
    )
    manifest = old.model_copy(update={"files": (file,), "train_images": rows, "labelled_images": rows})
    del content, table

    before = bytes_read()
    known = labelled_rows(str(tmp_path), manifest, 0.01)
    assert subset_hash(str(tmp_path), manifest, 0.01) == label_hash(order[:20], labels[order[:20]])
    of_labels = bytes_read() - before
    parts = list(read_rows(str(tmp_path), manifest, "train", 0, known))
    of_images = bytes_read() - before - of_labels
    assert known == 20 == sum(len(part.ids) for part in parts)
    assert of_images < 0.02 * file.bytes, "two row groups of 125, and the footer"
    assert of_labels < 0.02 * file.bytes


def test_manifest_is_as_it_was_written_or_refused(shards: str, tmp_path: Path) -> None:
    text = Path(shards, MANIFEST_NAME).read_bytes()
    manifest = read_manifest(shards)
    assert manifest_text(manifest) == text and parse_manifest(text) == manifest
    copy = shutil.copytree(shards, tmp_path / "copy")
    (copy / MANIFEST_NAME).write_bytes(text.replace(b'"label_seed": 0', b'"label_seed": 1'))
    with pytest.raises(ValueError, match=f"{MANIFEST_NAME} at '{copy}' is damaged.*: its SHA-256 is .* delete the"):
        read_manifest(str(copy))


def test_shards_from_before_there_were_checksums_are_read_as_they_are(tmp_path: Path) -> None:
    uri = write(digits(), tmp_path / "shards")
    new = train_stream(uri, 0)
    fingerprint = read_manifest(uri).fingerprint
    old = forget_checksums(uri)
    assert b"checksums" not in Path(uri, MANIFEST_NAME).read_bytes()
    assert read_manifest(uri) == old and old.fingerprint == fingerprint
    for one, other in zip(train_stream(uri, 0), new, strict=True):
        assert (one.ids == other.ids).all() and (one.images == other.images).all()
    assert subset_hash(uri, old, 0.5) == subset_hash(str(uri), Manifest.model_validate(old.model_dump()), 0.5)
