import hashlib
import io
import json
import logging
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from datasets import blocks
from datasets.blocks import read_rows
from datasets.checksums import DamagedError
from datasets.manifest import has_manifest, read_manifest
from datasets.schema import SCHEMA
from datasets.shards import write_shards
from datasets.splits import label_ranks, labelled_rows, row_ids, subset_hash

# Ray Data warns of its own deprecated settings whenever it makes its context.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module", autouse=True)
def running_ray():
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("digits") / "shards")
    return folder, write_shards("digits", folder)


def png(value, size=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size + value % 3, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def photo_folder(root, per_class=30):
    """Two classes, unlabelled images, and images of different widths; image number n has the value n."""
    names = [f"train/{c}/{i:03d}.png" for c in "ab" for i in range(per_class)]
    names += [f"unlabelled/{i}.png" for i in range(5)] + [f"val/{c}/{i}.png" for c in "ab" for i in range(3)]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return str(root)


def photo_parquet(root, folder):
    """The same images as Parquet, in the order of the folder's ids, in several files and row groups."""
    root.mkdir()
    train = [*sorted(folder.glob("train/*/*.png")), *sorted(folder.glob("unlabelled/*.png"))]
    test = sorted(folder.glob("val/*/*.png"))
    for name, paths in (("train-0", train[:37]), ("train-1", train[37:]), ("test", test)):
        labels = [None if path.parent.name == "unlabelled" else path.parent.name for path in paths]
        images = [path.read_bytes() for path in paths]
        table = pa.table({"image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.string())})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=9)
    return str(root)


def rows_of(folder, manifest, split="train"):
    tables = [pq.read_table(f"{folder}/{file.name}") for file in manifest.files if file.split == split]
    return pa.concat_tables(tables)


def test_training_rows_are_ordered_by_label_rank_and_test_rows_by_id(digits):
    folder, manifest = digits
    train, test = rows_of(folder, manifest), rows_of(folder, manifest, "test")
    assert train.schema.equals(SCHEMA) and (train.num_rows, test.num_rows) == (1438, 359)
    ids, ranks = train["id"].to_numpy(), train["label_rank"].to_numpy()
    assert [*zip(ranks, ids, strict=True)] == sorted(zip(ranks, ids, strict=True))
    by_id = np.argsort(ids)
    expected = label_ranks(train["label"].to_numpy()[by_id], 0)
    assert np.array_equal(ranks[by_id], expected)
    assert test["id"].to_pylist() == list(range(4, 1797, 5)) and test["label_rank"].null_count == 359


def test_the_manifest_describes_its_files(digits):
    folder, manifest = digits
    assert has_manifest(folder) and read_manifest(folder) == manifest
    assert manifest.classes == tuple("0123456789") and sum(manifest.class_counts) == manifest.labelled_images == 1438
    train, test = rows_of(folder, manifest), rows_of(folder, manifest, "test")
    assert list(manifest.class_counts) == np.bincount(train["label"].to_numpy()).tolist()
    assert manifest.image_bytes == sum(len(image) for table in (train, test) for image in table["image"].to_pylist())
    assert (manifest.min_height, manifest.max_width, manifest.mean_pixels) == (8, 8, 64)
    for file in manifest.files:
        data = Path(folder, file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        groups = pq.read_metadata(f"{folder}/{file.name}")
        assert groups.row_group(0).num_rows == manifest.row_group_rows == 16
        assert groups.num_row_groups == -(-file.rows // 16)
        rows = pq.read_table(f"{folder}/{file.name}", columns=["id", "label"]).to_pylist()
        packed = b"".join(struct.pack("<qq", row["id"], row["label"]) for row in sorted(rows, key=lambda r: r["id"]))
        assert file.labels_sha256 == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("fraction", [1e-6, 0.01, 0.1, 0.123, 0.5, 1.0])
def test_a_label_fraction_is_a_prefix(digits, fraction):
    folder, manifest = digits
    ranks = rows_of(folder, manifest)["label_rank"].to_numpy()
    rows = labelled_rows(folder, manifest, fraction)
    assert (ranks[:rows] < fraction).all() and (ranks[rows:] >= fraction).all()
    assert row_ids(folder, manifest, "train", rows).tolist() == rows_of(folder, manifest)["id"].to_pylist()[:rows]
    read = rows_of(folder, manifest).slice(0, rows)
    pairs = sorted(zip(read["id"].to_pylist(), read["label"].to_pylist(), strict=True))
    packed = b"".join(struct.pack("<qq", *pair) for pair in pairs)
    assert subset_hash(folder, manifest, fraction) == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_label_fraction_out_of_range_is_an_error(digits, fraction):
    with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
        labelled_rows(*digits, fraction)


def test_folder_and_parquet_give_the_same_content_whatever_the_shard_sizes(tmp_path):
    photos = photo_folder(tmp_path / "photos")
    whole = write_shards(photos, str(tmp_path / "whole"))
    parts = write_shards(photos, str(tmp_path / "parts"), shard_bytes=1000)
    parquet = photo_parquet(tmp_path / "parquet", tmp_path / "photos")
    copied = write_shards(parquet, str(tmp_path / "copied"), shard_bytes=1500)
    assert len(whole.files) == 2 and len(parts.files) > 3 and len(copied.files) > 3
    assert whole.fingerprint == parts.fingerprint == copied.fingerprint
    assert (whole.train_images, whole.labelled_images, whole.test_images) == (65, 60, 6)
    assert (whole.min_width, whole.max_width) == (8, 10)
    tables = [rows_of(tmp_path / name, m) for name, m in (("whole", whole), ("parts", parts), ("copied", copied))]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    ids, labels = tables[0]["id"].to_pylist(), tables[0]["label"].to_pylist()
    assert tables[0]["image"].to_pylist() == [png(number) for number in ids]
    assert labels == [None if number >= 60 else number // 30 for number in ids]
    assert ids[60:] == [60, 61, 62, 63, 64]
    starts = [file.first_position for file in parts.split_files("train")]
    assert starts == np.cumsum([0, *(file.rows for file in parts.split_files("train"))])[:-1].tolist()
    for fraction in (0.05, 0.3, 0.77, 1.0):
        assert labelled_rows(str(tmp_path / "parts"), parts, fraction) == int(fraction * 60 + 1e-9)
    assert write_shards(photos, str(tmp_path / "seed"), label_seed=1).fingerprint != whole.fingerprint


def test_a_limited_parquet_source_keeps_its_ids(tmp_path):
    photo_folder(tmp_path / "photos")
    parquet = photo_parquet(tmp_path / "parquet", tmp_path / "photos")
    manifest = write_shards(parquet, str(tmp_path / "shards"), train_limit=13, test_limit=2)
    assert (manifest.train_images, manifest.labelled_images, manifest.test_images) == (13, 12, 2)
    table = rows_of(tmp_path / "shards", manifest)
    assert table["image"].to_pylist() == [png(number) for number in table["id"].to_pylist()]


def test_unreadable_images_are_counted_and_named_and_leave_nothing(tmp_path):
    photos = photo_folder(tmp_path / "photos")
    for name in ("train/a/003.png", "val/b/1.png"):
        path = tmp_path / "photos" / name
        path.write_bytes(path.read_bytes()[:50])
    for number in range(10, 21):
        (tmp_path / "photos" / f"train/b/{number:03d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"13 images .* train/a/003.png .* and others; replace or remove") as error:
        write_shards(photos, str(tmp_path / "shards"))
    assert str(error.value).count(".png") == 10
    assert list((tmp_path / "shards").iterdir()) == []
    assert not has_manifest(str(tmp_path / "shards"))
    with pytest.raises(ValueError, match=r"no shards .*python -m study shard SOURCE"):
        read_manifest(str(tmp_path / "shards"))


def test_finished_shards_are_left_alone_and_others_are_not_overwritten(digits):
    folder, manifest = digits
    assert write_shards("digits", folder) == manifest
    with pytest.raises(ValueError, match=r"already holds shards of 'digits' made otherwise \(label_seed 0 -> 1\)"):
        write_shards("digits", folder, label_seed=1)
    assert read_manifest(folder) == manifest


def test_an_interrupted_sharding_is_begun_again(tmp_path, digits):
    for name in ("train-0000000000.parquet.partial", "test-0000000016.parquet"):
        (tmp_path / name).write_bytes(b"half")
    manifest = write_shards("digits", str(tmp_path))
    assert manifest.fingerprint == digits[1].fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["manifest.json", *(file.name for file in manifest.files)]
    )


def test_a_destination_that_cannot_be_used_is_an_error(tmp_path):
    photos = tmp_path / "photos"
    photo_folder(photos)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file"):
        write_shards(str(photos), str(tmp_path / "file" / "shards"))
    with pytest.raises(ValueError, match="lies within the source"):
        write_shards(str(photos), str(photos / "shards"))
    with pytest.raises(ValueError, match=r"is not empty \(it holds file, photos\)"):
        write_shards(str(photos), str(tmp_path))


def test_a_shard_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "test-0000000000.parquet.partial").mkdir()
    with pytest.raises(ValueError, match=r"^cannot write .*/test-0000000000.parquet.partial: .*make room") as error:
        write_shards("digits", str(tmp_path), train_limit=50, test_limit=10)
    assert "ray" not in str(error.value).lower() and not has_manifest(str(tmp_path))


def test_a_parquet_file_that_breaks_off_is_explained(tmp_path):
    photo_folder(tmp_path / "photos")
    parquet = tmp_path / "parquet"
    photo_parquet(parquet, tmp_path / "photos")
    group = pq.read_metadata(parquet / "train-1.parquet").row_group(1)
    column = group.column(0)
    start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
    data = bytearray((parquet / "train-1.parquet").read_bytes())
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (parquet / "train-1.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"^cannot read the Parquet file .*/train-1.parquet: .*restore or remove it$"):
        write_shards(str(parquet), str(tmp_path / "shards"))
    assert not has_manifest(str(tmp_path / "shards"))


def test_a_folder_named_like_a_built_in_source_may_be_the_destination(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_shards("digits", "digits", train_limit=50, test_limit=10) == read_manifest(str(tmp_path / "digits"))


@pytest.mark.parametrize(
    ("expected", "message"),
    [({"train_images": 60}, "50 training images, expected 60"), ({"classes": 11}, "10 classes, expected 11")],
)
def test_numbers_other_than_expected_are_refused_before_writing(tmp_path, expected, message):
    limits = {"train_limit": 50, "test_limit": 10}
    with pytest.raises(ValueError, match=f"'digits' has {message}"):
        write_shards("digits", str(tmp_path), **limits, **expected)
    assert list(tmp_path.iterdir()) == []
    made = write_shards("digits", str(tmp_path), **limits, train_images=50, classes=10)
    with pytest.raises(ValueError, match=f"'digits' has {message}"):
        write_shards("digits", str(tmp_path), **limits, **expected)
    assert read_manifest(str(tmp_path)) == made


def test_missing_shards_and_foreign_manifests_are_explained(tmp_path):
    manifest = write_shards("digits", str(tmp_path), train_limit=50, test_limit=10)
    (tmp_path / manifest.files[0].name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 2 shards .* cut short \(train-0000000000.parquet\)"):
        read_manifest(str(tmp_path))
    text = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(text | {"format_version": 99}))
    with pytest.raises(ValueError, match="not a manifest of this version"):
        read_manifest(str(tmp_path))


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_sharding_notes_checksums_of_all_bytes_and_the_fingerprint_of_before(tmp_path):
    manifest = write_shards("digits", str(tmp_path), train_limit=50, test_limit=10)
    assert manifest.fingerprint == "6d5d6379b213725850b8c03027c5c563b3ef637b5ece3aa6f83cdd819c111bbd"
    for file in manifest.files:
        for byte in (0, 5, file.bytes // 2, file.bytes - file.checksums.footer_bytes, file.bytes - 1):
            flip(tmp_path / file.name, byte)
            with pytest.raises(DamagedError, match=file.name):
                list(read_rows(str(tmp_path), manifest, file.split, 0, file.rows))
            flip(tmp_path / file.name, byte)
        assert sum(len(rows.ids) for rows in read_rows(str(tmp_path), manifest, file.split, 0, file.rows)) == file.rows


def test_damage_is_told_in_the_same_words_through_ray_data(tmp_path, monkeypatch):
    manifest = write_shards("digits", str(tmp_path), train_limit=200, test_limit=10)
    [train] = manifest.split_files("train")
    flip(tmp_path / train.name, train.bytes // 2)
    messages = []
    for ray_bytes in (0, 2**30):
        monkeypatch.setattr(blocks, "RAY_BYTES", ray_bytes)
        monkeypatch.setattr(blocks, "TASK_BYTES", 4000)
        with pytest.raises(DamagedError) as error:
            list(read_rows(str(tmp_path), manifest, "train", 0, 200))
        messages.append(str(error.value))
    assert messages[0] == messages[1] and messages[0].startswith(f"the shard {tmp_path}/{train.name} is damaged")


def end_process(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writing_process_that_ends_again_and_again_is_given_up_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.shards.write_shard", end_process)
    with pytest.raises(
        ValueError, match=r"writes the train images of 'digits' ended 4 times .* may lack memory"
    ) as error:
        write_shards("digits", str(tmp_path), train_limit=50, test_limit=10)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)
    assert not has_manifest(str(tmp_path))
