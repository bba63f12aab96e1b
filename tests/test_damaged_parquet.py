import base64
import json
import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from damage import KINDS, damaged, encoded
from datasets.parquet_file import process, read_images
from datasets.sources import open_source, source_signature

IMAGE = encoded("gif")


@pytest.fixture(scope="module", autouse=True)
def _processes():
    yield
    process().close()


def table(labels, metadata=None):
    found = pa.table({"image": [{"bytes": IMAGE, "path": None}] * len(labels), "label": labels})
    return found if metadata is None else found.replace_schema_metadata({b"huggingface": metadata})


@pytest.fixture
def folder(tmp_path):
    pq.write_table(table(["cat", "dog"] * 10), tmp_path / "train.parquet", row_group_size=7)
    pq.write_table(table(["cat"]), tmp_path / "test.parquet")
    return tmp_path


class Keys(pe.KmsClient):
    """Wraps keys by encoding them."""

    def wrap_key(self, key_bytes, _name):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, _name):
        return base64.b64decode(wrapped_key)


def encrypted(path, found):
    settings = pe.EncryptionConfiguration(footer_key="key", column_keys={"key": ["label"]})
    properties = pe.CryptoFactory(lambda _: Keys()).file_encryption_properties(pe.KmsConnectionConfig(), settings)
    with pq.ParquetWriter(path, found.schema, encryption_properties=properties) as writer:
        writer.write_table(found)
    return path.read_bytes()


def whole(path):
    return path.read_bytes()


DAMAGE = {
    "empty": lambda path: b"",
    "magic alone": lambda path: b"PAR1",
    "wrong magic": lambda path: whole(path)[:-4] + b"PARE",
    "no Parquet file": lambda path: b"<html>404</html>" * 100,
    "cut off": lambda path: whole(path)[: len(whole(path)) // 2],
    "footer of zeros": lambda path: whole(path)[:-1000] + bytes(992) + whole(path)[-8:],
    "footer longer than the file": lambda path: whole(path)[:-8] + b"\xff\xff\xff\x7fPAR1",
    "encrypted": lambda path: encrypted(path, table(["cat", "dog"])),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("read", [open_source, source_signature])
def test_a_damaged_parquet_file_is_named_in_one_sentence(folder, kind, read):
    file = folder / "train.parquet"
    file.write_bytes(DAMAGE[kind](file))
    with pytest.raises(
        ValueError, match=r"^cannot read the Parquet file .*/train.parquet: .*; restore or remove it$"
    ) as e:
        read(str(folder))
    assert len(str(e.value)) < 1000 and "\n" not in str(e.value)


def read_wholly(folder):
    source = open_source(str(folder))
    rows = 0
    for name, group, _, _ in source.images.groups:
        rows += sum(len(images) for images in read_images(str(folder), name, group))
    return rows


def test_flips_anywhere_in_a_parquet_file_end_in_errors_that_name_it_or_in_all_its_rows(folder):
    file, draw = folder / "train.parquet", random.Random(5)
    original = file.read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    refused = []
    for number in range(60):
        data = original[:footer] + damaged(original[footer:], "flip", draw)
        file.write_bytes(data if number % 2 else damaged(original, draw.choice(KINDS), draw))
        try:
            assert read_wholly(folder) == 21
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 20 and all("train.parquet" in message for message in refused)
    file.write_bytes(original)
    assert read_wholly(folder) == 21


def test_a_schema_to_which_a_histogram_does_not_fit_is_survived(folder):
    """pyarrow ends the process where a column that was optional is required: its histogram of levels is too long."""
    file = folder / "train.parquet"
    original = file.read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    crash = "its reader ended by signal 6 (SIGABRT); restore or remove it"
    for place in range(footer, footer + 80):
        file.write_bytes(original[:place] + bytes([original[place] ^ 2]) + original[place + 1 :])
        try:
            open_source(str(folder))
        except ValueError as error:
            if crash in str(error):
                break
    else:
        raise AssertionError("pyarrow crashes no more: this test and the process of its own may go")
    file.write_bytes(original)
    assert read_wholly(folder) == 21


def test_training_files_without_rows_are_refused(folder):
    pq.write_table(table(["cat"])[:0], folder / "train.parquet")
    with pytest.raises(ValueError, match=r"the training files of .* \(train.parquet\) have no rows"):
        open_source(str(folder))
    pq.write_table(table(["cat"]), folder / "train.parquet")
    pq.write_table(table(["cat"])[:0], folder / "test.parquet")
    with pytest.raises(ValueError, match=r"the test rows of .* \(test.parquet\) have no labels"):
        open_source(str(folder))


def test_a_column_that_stands_twice_is_refused(folder):
    twice = pa.table([[IMAGE], [IMAGE], ["cat"]], names=["image", "image", "label"])
    pq.write_table(twice, folder / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet in .* has several columns `image`; rename all but one"):
        open_source(str(folder))


def names(value):
    return json.dumps({"info": {"features": {"label": {"names": value}}}}).encode()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"null", "has null as its value; expected an object"),
        (b"[]", r"has \[\] as its value; expected an object"),
        (b'{"info": 3}', "has 3 as info; expected an object"),
        (b'{"info": {"features": [1]}}', r"has \[1\] as info.features; expected an object"),
        (b'{"info": {"features": {"label": "x"}}}', 'has "x" as info.features.label; expected an object'),
        (names(3), "has 3 as info.features.label.names; expected a list of names"),
        (names({"a": 1}), r"has {\"a\": 1} as info.features.label.names; expected a list of names"),
        (names(["cat", None]), "has null among info.features.label.names; expected names only"),
        (names(["cat", {"a": ["b" * 999]}]), r"has {\"a\": \[\"b.*\.\.\. among"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'"' + b"x" * (16 * 2**20) + b'"', "takes 16,777,218 bytes; expected at most 16,777,216"),
    ],
)
def test_odd_metadata_of_the_hugging_face_hub_is_an_error_that_names_the_file(folder, metadata, message):
    pq.write_table(table([0, 1], metadata), folder / "train.parquet")
    pq.write_table(table([0]), folder / "test.parquet")
    with pytest.raises(
        ValueError, match=f"^train.parquet in .* has a metadata entry `huggingface` that {message}"
    ) as e:
        open_source(str(folder))
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize("metadata", [b"{}", b'{"info": null}', b'{"info": {"features": {}}}', names(None), names([])])
def test_metadata_without_class_names_is_none(folder, metadata):
    pq.write_table(table([0, 1], metadata), folder / "train.parquet")
    pq.write_table(table([0]), folder / "test.parquet")
    assert open_source(str(folder)).classes == ("0", "1")


def test_labels_and_images_in_views_are_read(folder):
    views = {"image": pa.array([IMAGE] * 2, pa.binary_view()), "label": pa.array(["dog", "cat"], pa.string_view())}
    pq.write_table(pa.table(views), folder / "train.parquet")
    source = open_source(str(folder))
    assert source.classes == ("cat", "dog") and source.train.labels.tolist() == [1, 0]
    (images,) = read_images(str(folder), "train.parquet", 0)
    assert images.to_pylist() == [IMAGE] * 2 and images.type == pa.binary()


def test_classes_named_as_programs_write_missing_labels_are_warned_of(folder, caplog):
    pq.write_table(table(["cat", "None", "nan", ""]), folder / "train.parquet")
    with caplog.at_level(logging.WARNING):
        assert len(open_source(str(folder)).classes) == 4
    assert "classes named '', 'None', 'nan', as programs write missing labels" in caplog.text
