"""A storage's or a source's name means one place to all parts, whatever its characters; else it is refused at once."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datasets.object_store
from datasets.filesystem import list_files, open_filesystem
from datasets.object_store import StorageError
from datasets.shards import _prepare
from datasets.sources import open_source
from datasets.urls import absolute, is_local
from datasets.writer import _file_bytes
from object_store import ObjectStore
from reports.build import paper_results, write_file
from reports.storage import Storage
from study.lease import lease
from trainables.checkpoint import delete_states, load_state, save_state

quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
ODD = " %20%#+@&=;:,'\"()[]{}<>|^`~!$*\\éß\u0301日😀._-" + string.ascii_letters + string.digits
NAMES = st.text(ODD, min_size=1, max_size=20).filter(lambda name: name not in (".", ".."))
KEYS = st.lists(NAMES, min_size=0, max_size=3).map("/".join)
LOCAL = st.text(ODD + "?\t\n\x01", min_size=1, max_size=30).filter(lambda name: name not in (".", ".."))


@quick
@given(key=KEYS, name=NAMES.map(lambda name: name + "?.png"), slashes=st.sampled_from(["", "/", "//"]))
def test_every_part_of_a_study_writes_and_reads_the_keys_that_the_url_has(
    store: ObjectStore, key: str, name: str, slashes: str
) -> None:
    """Judged by another client, Amazon's, which knows nothing of URLs."""
    client, bucket = store.client(), "places"
    if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket)
    url = f"S3://{bucket}{slashes or '/'}" if not key else f"s3://{bucket}/{key}{slashes}"
    below = f"{key}/" if key else ""
    storage = Storage(url)
    storage.write_bytes(b"[1]", "records", name)
    save_state(storage.uri("checkpoints", "t", "model.pt"), {"step": 1})
    assert _prepare(absolute(f"{url.rstrip('/')}/data"), url, {}) is None
    with lease(storage, "one place"):
        [claim] = storage.list("lease")
        expected = {"records/" + name, "checkpoints/t/model.pt", "lease/" + claim}
        assert store.keys(bucket) == {below + one for one in expected}
    client.put_object(Bucket=bucket, Key=f"{below}set/{name}", Body=b"pixels")
    assert list_files(f"{storage.root}/set", recursive=True) == ({name: 6}, [])
    assert _file_bytes(f"{absolute(url)}/set/{name}") == b"pixels"
    assert storage.read_json("records", name) == [1]
    assert load_state(storage.uri("checkpoints", "t", "model.pt")) == {"step": 1}
    delete_states(storage.uri("checkpoints", "t"), "model.pt")
    storage.delete("set", name)
    storage.delete("records", name)
    assert store.keys(bucket) == set() and Storage(storage.root).root == storage.root == absolute(storage.root)


@quick
@given(name=LOCAL)
def test_a_local_path_is_the_folder_that_python_names_so(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    for written in (
        str(folder),
        f"{tmp_path}//x/../{name}/",
        folder.as_uri(),
        f"FILE://localhost{folder.as_uri()[7:]}",
    ):
        storage = Storage(written)
        storage.write_bytes(b"1", "records", "a.json")
        assert [path.read_bytes() for path in folder.rglob("*.json")] == [b"1"] and storage.root == str(folder)
        assert list_files(absolute(written), recursive=True)[0] == {"records/a.json": 1}
        assert load_state(f"{absolute(written)}/none.pt") is None
        storage.delete("records")


@quick
@given(
    text=st.text(max_size=60)
    | st.tuples(st.sampled_from(["s3://", "gs://a", "file://", "S3:", "~"]), st.text()).map("".join)
)
def test_a_name_of_a_name_is_itself_or_nothing_has_one(text: str) -> None:
    try:
        name = absolute(text)
    except ValueError as error:
        assert len(str(error)) < 2000
        return
    assert absolute(name) == name and (is_local(name) == name.startswith("/"))


REFUSED = {
    "s3:/bucket/runs": "did you mean s3://bucket/runs?",
    "s3:bucket/runs": "did you mean s3://bucket/runs?",
    "S3:/bucket": "did you mean s3://bucket?",
    "s3//bucket/runs": "did you mean s3://bucket/runs?",
    "s3:///bucket/runs": "did you mean s3://bucket/runs?",
    "s3://": "names no bucket",
    "s3a://bucket/runs": "did you mean s3://bucket/runs?",
    "https://bucket.s3.amazonaws.com/runs": "of an unknown kind",
    "file:/data": "did you mean file:///data?",
    "file://data/x": "did you mean file:///data/x?",
    "file:///data?x=1": "write %3F",
    "file:///data/%FC": "not UTF-8",
    "file:///data/%00": "value 0",
    "s3://bucket/a//b": "did you mean s3://bucket/a/b?",
    "s3://bucket/a/../b": "did you mean s3://bucket/b?",
    "s3://bucket/./a": "did you mean s3://bucket/a?",
    "s3://bucket/a?region=eu-west-1": "AWS_DEFAULT_REGION",
    "s3://bucket?endpoint_override=localhost:9000": "AWS_ENDPOINT_URL",
    "gs://bucket/a?endpoint_override=x": "GOOGLE_APPLICATION_CREDENTIALS",
    "s3://bucket:9000/a": "without a port",
    "s3://buck et/a": "'buck et'",
    "s3://bucket/a\nb": "control character",
    "s3://bucket/" + "ü" * 400: "800 bytes",
    "C:\\data\\photos": "a path of Windows",
    "d:/photos": "a path of Windows",
    "\\\\server\\share": "a path of Windows",
    "x\0y": "value 0",
    "": "empty path",
    "  ": "empty path",
    "~nobody-of-this-name/x": "cannot use the path",
    "photos/" + "é" * 128: "256 bytes",
    "photos/" + "a/" * 2000: "choose a shorter one",
    "photos/M\udcfcller": "not UTF-8",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_names_no_place_is_refused_with_how_it_is_written(text: str) -> None:
    for use in (absolute, Storage, open_source):
        with pytest.raises(ValueError, match=r".") as refused:
            use(text)
        assert REFUSED[text] in str(refused.value) and len(str(refused.value)) < 1000


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    for use in (absolute, open_source):
        with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY") as refused:
            use("s3://KEY:hunter2@bucket/runs")
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "😀" * 63, "A.json", "a.json", "nul", " ", "-", "%", "#"])
def test_a_file_may_have_any_name_that_the_disk_takes(tmp_path: Path, name: str) -> None:
    Storage(str(tmp_path)).write_bytes(b"x", name)
    assert [path.name for path in tmp_path.iterdir()] == [name] and Storage(str(tmp_path)).read_bytes(name) == b"x"


def test_a_name_that_is_not_utf8_is_told_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/M\xfcller.png")).write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/M\\xfcller.png.*rename"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("key", ["x//y.png", "./y.png", "../y.png", "cr\rx.png"])
def test_a_key_that_cannot_be_read_back_is_told(store: ObjectStore, key: str) -> None:
    store.bucket("odd-keys")
    store.client().put_object(Bucket="odd-keys", Key=f"set/{key}", Body=b"x")
    with pytest.raises(ValueError, match=r"below 's3://odd-keys/set'.*rename or delete"):
        list_files("s3://odd-keys/set", recursive=True)
    store.client().delete_object(Bucket="odd-keys", Key=f"set/{key}")


@pytest.mark.parametrize("folder", ["a b", "a%20b", "a#b"])
def test_a_report_goes_where_a_storage_of_that_name_is(tmp_path: Path, store: ObjectStore, folder: str) -> None:
    written = write_file(
        paper_results(), f"{tmp_path.as_uri()}/{folder.replace('%', '%25').replace('#', '%23')}/x y.csv"
    )
    assert written == f"{tmp_path}/{folder}/x y.csv" and Path(written).is_file()
    url = f"{store.bucket('reports-' + str(len(folder.encode().hex())) + folder[1:2].encode().hex())}/{folder}/x.csv"
    assert write_file(paper_results(), url) == url
    assert store.keys(url.split("/")[2]) == {f"runs/{folder}/x.csv"}


def test_google_without_credentials_ends_soon_with_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(datasets.object_store, "GOOGLE_SECONDS", 1)
    datasets.object_store.google_client.cache_clear()
    with pytest.raises(StorageError, match="gcloud auth application-default login"):
        Storage("gs://no-such-bucket/runs").list("records")
    datasets.object_store.google_client.cache_clear()


def test_urls_of_other_stores_keep_every_character() -> None:
    assert open_filesystem("gs://bucket/a%20b/c d")[1] == "bucket/a%20b/c d"
    assert open_filesystem("abfs://box@account.dfs.core.windows.net/a%20b/#")[1] == "box/a%20b/#"
    assert absolute("GCS://anonymous@bucket/a%20b/") == "gs://anonymous@bucket/a%20b"
