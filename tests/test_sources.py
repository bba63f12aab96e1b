import io
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datasets.decode import decode
from datasets.sources import open_source, source_signature


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(value=0, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


def write_images(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number)))
    return str(root)


def test_digits_are_the_scans_and_every_fifth_is_a_test_image():
    source = open_source("digits")
    digits = load_digits()
    assert source.test.ids.tolist() == [i for i in range(1797) if i % 5 == 4]
    assert np.array_equal(source.train.labels, digits.target[source.train.ids])
    for number in (0, 4, 1796):
        image = decode(source.images.data[number])
        assert image.shape == (3, 8, 8)
        assert np.array_equal(image[0].numpy(), np.round(digits.images[number] * 255 / 16))


def test_a_limit_keeps_ids_signature_and_balance():
    source = open_source("digits", train_limit=100, test_limit=20)
    assert np.bincount(source.train.labels).tolist() == [10] * 10
    assert np.bincount(source.test.labels).tolist() == [2] * 10
    assert np.array_equal(source.train.labels, load_digits().target[source.train.ids])
    assert source.signature == open_source("digits").signature == source_signature("digits")


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_an_image_folder_has_classes_splits_and_unlabelled_images(tmp_path, test_folder):
    names = ("train/b/1.png", "train/a/2.png", "train/a/deep/1.PNG", f"{test_folder}/a/9.png", "unlabelled/x/1.png")
    source = open_source(write_images(tmp_path, *names))
    assert source.classes == ("a", "b")
    paths = source.images.paths
    assert [paths[i] for i in source.train.ids] == [
        "train/a/2.png",
        "train/a/deep/1.PNG",
        "train/b/1.png",
        "unlabelled/x/1.png",
    ]
    assert source.train.labels.tolist() == [0, 0, 1, -1]
    assert [paths[i] for i in source.test.ids] == [f"{test_folder}/a/9.png"]


def test_class_folders_alone_give_a_tenth_for_testing_and_say_so(tmp_path, caplog):
    folder = write_images(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(20)), "unlabelled/0.png")
    with caplog.at_level(logging.WARNING):
        source = open_source(folder)
    assert "4 of 40 labelled images" in caplog.text
    assert np.bincount(source.test.labels).tolist() == [2, 2]
    assert sorted([*source.train.ids, *source.test.ids]) == list(range(41))
    assert source.train.labels.tolist().count(-1) == 1
    assert np.array_equal(open_source(folder).test.ids, source.test.ids)


def test_the_signature_of_a_folder_follows_names_and_sizes(tmp_path):
    folder = write_images(tmp_path, "train/a/1.png", "test/a/1.png")
    before = source_signature(folder)
    assert before == open_source(folder).signature
    (tmp_path / "README.txt").write_text("not an image")
    assert source_signature(folder) == before
    write_images(tmp_path, "train/a/2.png")
    assert source_signature(folder) != before


@pytest.mark.parametrize("hidden", ["train/.ipynb_checkpoints/x.png", "train/a/.cache/x.png", "train/a/.x.png"])
def test_hidden_folders_and_files_are_passed_over(tmp_path, hidden):
    folder = write_images(tmp_path, "train/a/1.png", "test/a/1.png")
    before = source_signature(folder)
    source = open_source(write_images(tmp_path, hidden))
    assert source.classes == ("a",) and source.images.paths == ["train/a/1.png", "test/a/1.png"]
    assert source_signature(folder) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "found no images"),
        (("train/a/1.png", "val/b/1.png"), "class 'b' that the training images lack"),
        (("train/cat/1.png", "val/cats/1.png"), "did you mean 'cat'"),
        (("train/a/1.png", "train/2.png", "val/a/1.png"), r"outside a class folder \(train/2.png\)"),
        (("train/a/1.png", "vall/a/1.png"), "found a folder 'vall' .* did you mean 'val'"),
        (("a/1.png", "a/2.png", "b/1.png"), r"\['b'\] have one image each"),
    ],
)
def test_a_faulty_folder_is_explained(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        open_source(write_images(tmp_path, *names))


def test_empty_class_folders_are_named(tmp_path):
    folder = write_images(tmp_path, "train/a/1.png", "val/a/1.png")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"1 class folders .* hold no image \(train/empty\)"):
        open_source(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown source 'digit'; did you mean 'digits'"),
        ("{}/photo", "there is no folder .*photo'.*did you mean .*photos'"),
        ("{}/file", "is a file; expected digits, cifar10, an image folder"),
    ],
)
def test_an_unknown_source_is_explained(tmp_path, name, message):
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=message):
        open_source(name.format(tmp_path))


def write_parquet(root, name, labels, label_type=None, **columns):
    images = [{"bytes": encode(picture(i)), "path": f"{i}.png"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, label_type), **columns}), root / name)
    return str(root)


def test_parquet_integers_strings_and_missing_labels(tmp_path):
    write_parquet(tmp_path, "train-0.parquet", [3, 7, None], pa.int64())
    write_parquet(tmp_path, "train-1.parquet", [-1, 7], pa.int32())
    folder = write_parquet(tmp_path, "validation.parquet", [7], pa.int64())
    source = open_source(folder)
    assert source.classes == ("3", "7")
    assert source.train.labels.tolist() == [0, 1, -1, -1, 1]
    assert source.test.labels.tolist() == [1] and source.test.ids.tolist() == [5]
    assert source.signature == source_signature(folder)

    words = tmp_path / "words"
    words.mkdir()
    write_parquet(words, "train.parquet", ["dog", "cat", None])
    source = open_source(write_parquet(words, "test.parquet", ["cat"]))
    assert source.classes == ("cat", "dog") and source.train.labels.tolist() == [1, 0, -1]


def test_parquet_class_names_come_from_a_column_or_the_metadata(tmp_path):
    write_parquet(tmp_path, "train.parquet", [1, 0, 1], label_name=["dog", "cat", "dog"])
    assert open_source(write_parquet(tmp_path, "test.parquet", [0])).classes == ("cat", "dog")
    described = b'{"info": {"features": {"label": {"names": ["owl", "bat"], "_type": "ClassLabel"}}}}'
    table = pq.read_table(tmp_path / "train.parquet").replace_schema_metadata({b"huggingface": described})
    pq.write_table(table, tmp_path / "train.parquet")
    assert open_source(str(tmp_path)).classes == ("owl", "bat")


def test_a_parquet_test_split_without_labels_gives_way_to_validation(tmp_path):
    write_parquet(tmp_path, "train.parquet", [0, 1])
    write_parquet(tmp_path, "test.parquet", [-1, -1])
    with pytest.raises(ValueError, match="have no labels"):
        open_source(str(tmp_path))
    assert open_source(write_parquet(tmp_path, "validation.parquet", [1])).test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": [0]}, r"expected train\*.parquet and test"),
        ({"train": [0], "test": [1]}, r"labels \[1\] that the training rows lack"),
        ({"train": [0], "test": [0, None]}, "1 test rows .* have no label"),
    ],
)
def test_faulty_parquet_is_explained(tmp_path, files, message):
    for name, labels in files.items():
        write_parquet(tmp_path, f"{name}.parquet", labels)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path))


def test_parquet_labels_that_pandas_made_floats_or_categories_are_integers_and_strings(tmp_path):
    write_parquet(tmp_path, "train.parquet", [0.0, 1.0, None, float("nan"), -1.0], label_name=["a", "b", "a", "b", "a"])
    source = open_source(write_parquet(tmp_path, "test.parquet", [1, 0]))
    assert source.classes == ("a", "b")
    assert source.train.labels.tolist() == [0, 1, -1, -1, -1] and source.test.labels.tolist() == [1, 0]
    write_parquet(tmp_path, "train.parquet", [0.0, 1.5, float("inf")])
    with pytest.raises(ValueError, match=r"train.parquet in .* has the labels \[1.5, inf\]; expected whole numbers"):
        open_source(str(tmp_path))

    words = tmp_path / "words"
    words.mkdir()
    write_parquet(words, "train-0.parquet", ["dog", "cat"], pa.dictionary(pa.int8(), pa.string()))
    write_parquet(words, "train-1.parquet", [None, None], pa.null())
    source = open_source(write_parquet(words, "test.parquet", ["cat"]))
    assert source.classes == ("cat", "dog") and source.train.labels.tolist() == [1, 0, -1, -1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [[0], [1]]}, "`label` of type list<.*int64>; expected integers, whole-number floats"),
        ({"image": [1, 2]}, "`image` of type int64; expected binary, or a struct"),
        ({"image": ["a.png", "b.png"]}, "`image` of type string; expected binary"),
        ({"image": [{"path": "a"}, {"path": "b"}]}, "`image` of type struct<path: string>; expected binary"),
        ({"image": [{"bytes": 1}, {"bytes": 2}]}, "`image` of type struct<bytes: int64>; expected binary"),
        ({"label_name": [1, 2]}, "`label_name` of type int64; expected strings"),
    ],
)
def test_parquet_columns_of_other_types_are_named(tmp_path, columns, message):
    write_parquet(tmp_path, "test.parquet", [0, 1])
    pq.write_table(pa.table({"image": [b"", b""], "label": [0, 1]} | columns), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=f"train.parquet in .* has a column {message}"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("read", [open_source, source_signature])
def test_a_broken_parquet_file_is_named(tmp_path, read):
    write_parquet(tmp_path, "train.parquet", [0, 1])
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"cannot read the Parquet file .*/test.parquet: .*; restore or remove it"):
        read(str(tmp_path))


@pytest.mark.parametrize("read", [open_source, source_signature])
def test_a_folder_of_shards_is_not_a_source(tmp_path, read):
    write_parquet(tmp_path, "train-0000000000.parquet", [0, 1])
    write_parquet(tmp_path, "test-0000000000.parquet", [0, 1])
    assert read(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"already holds shards.*use the folder as it is as `data.source`"):
        read(str(tmp_path))


def test_cifar10_without_network_is_explained(tmp_path, monkeypatch):
    def offline(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)  # the network, at the edge
    with pytest.raises(ValueError, match=r"cannot download CIFAR-10 .* no route to host; connect to the network once"):
        open_source("cifar10")


def test_decoding_formats_that_are_not_plain_rgb():
    random = np.random.default_rng(0)
    gray = random.integers(0, 256, (5, 7)).astype(np.uint8)
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(decode(encode(gray, kind)).numpy(), np.stack([gray] * 3))
    deep = random.integers(0, 65536, (5, 7)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encode(deep, kind)).numpy(), np.stack([deep // 256] * 3))
    color = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    transparent = np.dstack([color, np.full((5, 7), 9, np.uint8)])
    assert np.array_equal(decode(encode(transparent)).numpy(), color.transpose(2, 0, 1))
    palette = io.BytesIO()
    Image.fromarray(gray).convert("P").save(palette, "PNG", transparency=bytes(range(200)))
    assert np.array_equal(decode(palette.getvalue()).numpy(), np.stack([gray] * 3))
    ink = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(ink, "JPEG")
    assert decode(ink.getvalue()).float().mean(dim=(1, 2)).numpy() == pytest.approx([254, 0, 0], abs=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_turns_the_image_upright(kind):
    pixels = np.zeros((32, 16, 3), np.uint8)
    pixels[:16] = 255  # bright above, so a quarter turn clockwise (orientation 6) brings it to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encode(pixels, kind, exif=exif))
    assert image.shape == (3, 16, 32)
    assert image[:, :, 17:].float().mean() > 250 and image[:, :, :15].float().mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF"])
def test_broken_files_are_errors(kind):
    whole = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), kind)
    for data in (whole[: len(whole) // 2], b"", b"not an image"):
        with pytest.raises(ValueError, match="unreadable image"):
            decode(data)


def test_long_sides_are_reduced_by_averaging():
    stripes = np.zeros((4, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    image = decode(encode(stripes), max_side=40)
    assert image.shape == (3, 1, 40)
    assert (image.float() - 100).abs().max() <= 5  # every tenth column kept would be all 0 or all 200
    assert torch.equal(decode(encode(stripes), max_side=400), decode(encode(stripes)))
