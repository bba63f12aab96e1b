"""Storage, checkpoints and whole studies on an object store: the S3 protocol, spoken by a real server."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import synthetic
import trials
from object_store import ObjectStore, policies_enforced
from reports.storage import Storage
from reports.stored import read_record, read_records, record_ids, write_record
from studies import tiny
from trainables.checkpoint import load_state, save_state
from trainables.context import Context
from trainables.stages import run_stage

pytestmark = pytest.mark.timeout(240)
PART = 10 * 2**20  # from this size on an upload has several parts


def test_record_is_one_put_and_read_back_as_written(store: ObjectStore) -> None:
    storage, written = Storage(store.bucket("records")), synthetic.record("a", label_fraction=0.1)
    write_record(storage, written)
    assert [path for method, path in store.requests if method in ("PUT", "POST")][1:] == [
        "/records/runs/records/a.json"
    ]
    assert read_record(storage, "a") == written and record_ids(storage) == {"a"}
    storage.delete("records", "a.json")
    assert record_ids(storage) == set() and store.keys("records") == set()


def test_throttled_and_broken_requests_are_made_again(store: ObjectStore) -> None:
    storage, written = Storage(store.bucket("flaky")), synthetic.record("a", label_fraction=0.1)
    met: dict[tuple[str, str], int] = {}

    def first_twice(method: str, path: str) -> str | None:
        met[method, path] = met.get((method, path), 0) + 1
        return {1: "503", 2: "cut"}.get(met[method, path])

    store.fault = first_twice
    write_record(storage, written)
    assert read_records(storage) == ([written], [])
    assert met["PUT", "/flaky/runs/records/a.json"] == met["GET", "/flaky/runs/records/a.json"] == 3


def test_file_that_is_replaced_while_it_is_read_is_whole(store: ObjectStore) -> None:
    storage = Storage(store.bucket("replaced"))
    storage.write_bytes(b'{"step": 1}', "progress.json")

    def replace(method: str, path: str) -> None:
        """The reader knows the length of the old file already."""
        if method == "GET" and "progress.json" in path:
            store.fault = None
            store.client().put_object(Bucket="replaced", Key="runs/progress.json", Body=b'{"step": 2, "share": 0.5}')

    store.fault = replace
    assert storage.read_json("progress.json") == {"step": 2, "share": 0.5} and store.fault is None


def test_file_that_is_deleted_while_it_is_read_is_absent(store: ObjectStore) -> None:
    storage = Storage(store.bucket("deleted"))
    storage.write_bytes(b'{"step": 1}', "progress.json")

    def delete(method: str, path: str) -> None:
        if method == "GET" and "progress.json" in path:
            store.fault = None
            store.client().delete_object(Bucket="deleted", Key="runs/progress.json")

    store.fault = delete
    with pytest.raises(FileNotFoundError):
        storage.read_json("progress.json")
    assert store.fault is None


def test_absent_file_is_asked_for_as_often_as_the_client_has_to(store: ObjectStore) -> None:
    """A trial that waits has no progress, and the status of a study asks for that of each."""
    storage = Storage(store.bucket("without-the-file"))

    def requests(read: Callable[..., Any]) -> int:
        store.requests.clear()
        with pytest.raises(FileNotFoundError):
            read("checkpoints", "t", "progress.json")
        return len(store.requests)

    assert requests(storage.read_json) == requests(storage.read_bytes) > 0


def test_many_records_are_read_at_the_same_time(store: ObjectStore) -> None:
    """The first answers wait until six are asked for."""
    storage = Storage(store.bucket("many"))
    for number in range(42):
        write_record(storage, synthetic.record(f"t{number}"))
    asked, together = itertools.count(1), threading.Event()

    def gather(method: str, path: str) -> None:
        if method == "GET" and path.endswith(".json"):
            if next(asked) >= 6:
                together.set()
            assert together.wait(20)

    store.fault = gather
    records, problems = read_records(storage)
    assert len(records) == 42 and not problems and together.is_set()


@pytest.mark.parametrize("size", [100, 3 * PART])
def test_write_that_fails_or_is_killed_leaves_what_was_there(store: ObjectStore, size: int) -> None:
    bucket = f"killed-{size}"
    uri = f"{store.bucket(bucket)}/latest.pt"
    save_state(uri, {"step": 1})
    begun = threading.Event()
    over = threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "PUT" and (size < PART or "partNumber=2" in path):
            begun.set()
            over.wait(30)

    code = "import sys, torch\nfrom trainables.checkpoint import save_state\n"
    code += "save_state(sys.argv[1], {'step': 2, 'filler': torch.zeros(int(sys.argv[2]), dtype=torch.uint8)})"
    store.fault = hold
    writer = subprocess.Popen([sys.executable, "-c", code, uri, str(size)])
    assert begun.wait(60), "nothing was written"
    assert store.keys(bucket) == {"runs/latest.pt"} and load_state(uri) == {"step": 1}
    writer.kill()
    writer.wait()
    store.fault = None
    assert load_state(uri) == {"step": 1}
    over.set()

    store.fault = lambda method, path: "403" if method == "PUT" and (size < PART or "partNumber=3" in path) else None
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        save_state(uri, {"step": 3, "filler": torch.zeros(size, dtype=torch.uint8)})
    store.fault = None
    found = load_state(uri)
    assert found is not None and found["step"] < 3


def test_training_goes_on_while_a_checkpoint_is_written(store: ObjectStore, shards: str) -> None:
    folder = f"{store.bucket('background')}/checkpoints/t"
    trained, writing, most = threading.Event(), [], []

    def hold_until_trained(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("latest.pt"):
            writing.append(path)
            most.append(len(writing))
            assert trained.wait(60), "training waits for its checkpoint"
            writing.remove(path)

    def report(share: float) -> None:
        if share == 1.0:
            trained.set()

    store.fault = hold_until_trained
    context = Context(folder, checkpoint_seconds=1e-6, report=report)
    run_stage("pretrain", trials.assignment(shards, trials.settings("pretrain")), context)
    assert len(most) == 2 and max(most) == 1, "one while it trained, and the last one"
    saved = load_state(f"{folder}/latest.pt")
    assert saved is not None and saved["progress"]["step"] == 6
    context.delete_checkpoint()
    assert store.keys("background") == {"runs/checkpoints/t/model.pt"}


def test_last_checkpoint_that_cannot_be_written_fails_the_training(
    store: ObjectStore, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.object_store.REFUSED_SECONDS", 0.0)
    store.fault = lambda method, path: "403" if method == "PUT" and path.endswith("latest.pt") else None
    context = Context(f"{store.bucket('forbidden')}/checkpoints/t", checkpoint_seconds=1000)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        run_stage("pretrain", trials.assignment(shards, trials.settings("pretrain")), context)
    assert store.keys("forbidden") == {"runs/checkpoints/t/model.pt"}


def run(*arguments: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=230, env={**os.environ, **environment}, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def study_file(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(**changes)))
    return path


def test_storage_that_cannot_be_used_is_found_out_before_training(store: ObjectStore, tmp_path: Path) -> None:
    file, storage = study_file(tmp_path), store.bucket("guarded")
    absent = run("launch", file, "--storage", "s3://absent/runs", check=False)
    assert absent.returncode == 2 and "there is no such bucket" in absent.stderr and "s3://absent/runs" in absent.stderr
    reader = store.user("reader", "s3:Get*", "s3:List*")
    nobody = store.user("nobody", "ec2:DescribeInstances")
    with policies_enforced():
        for user, verb, right in ((reader, "write to", "s3:PutObject"), (nobody, "read", "s3:ListBucket")):
            refused = run("launch", file, "--storage", storage, check=False, **user)
            assert refused.returncode == 2 and "Traceback" not in refused.stderr
            said = f"cannot {verb} the storage {storage}: these credentials lack the right {right} on the bucket"
            assert said in refused.stderr
    assert store.keys("guarded") == set()


def test_whole_study_on_an_object_store(store: ObjectStore, tmp_path: Path) -> None:
    file, storage = study_file(tmp_path), store.bucket("whole")
    throttled: set[str] = set()

    def each_record_once(method: str, path: str) -> str | None:
        if method == "PUT" and "/records/" in path and path not in throttled:
            throttled.add(path)
            return "503"
        return None

    store.fault = each_record_once
    launched = run("launch", file, "--storage", storage)
    records, problems = read_records(Storage(storage))
    assert not problems and len(throttled) == 5
    assert sorted(record.spec.stage for record in records) == [
        "distill",
        "finetune",
        "linear",
        "pretrain",
        "supervised",
    ]
    assert launched.stdout.splitlines()[-1] == f"report: {storage}/reports/tiny.html"
    kept = store.keys("whole")
    checkpoints = {key for key in kept if key.startswith("runs/checkpoints/")}
    assert checkpoints == {f"runs/checkpoints/{record.id}/model.pt" for record in records}
    assert any(key.endswith("manifest.json") for key in kept)

    status = run("status", file, "--storage", storage)
    assert status.stdout.splitlines()[1].split() == ["pretrain", "1", "0", "0", "0", "0"]
    store.requests.clear()
    run("launch", file, "--storage", storage)
    put = {path for method, path in store.requests if method == "PUT"}
    assert not {path for path in put if "/records/" in path or "/checkpoints/" in path}
    page = tmp_path / "page.html"
    run("report", file, "--storage", storage, "-o", page)
    assert "<html" in page.read_text(encoding="utf-8")
