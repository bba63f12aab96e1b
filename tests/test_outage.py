"""An object store that does not answer for a while, or refuses: nothing more ends than has to."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import datasets.object_store
import synthetic
import trials
from datasets.object_store import StorageError, UnusableError
from object_store import Fault, ObjectStore
from reports.storage import Storage
from reports.stored import read_failures, read_records, write_record
from studies import tiny
from study.failures import note_error
from study.grid import expand
from study.load import load_study
from trainables.checkpoint import load_state, save_state
from trainables.context import Context
from trainables.stages import run_stage

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that try once instead of for half a minute, and short pauses."""
    monkeypatch.setattr(datasets.object_store, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(datasets.object_store, "PAUSE_SECONDS", 0.01)


def first(number: int, answer: str, *words: str) -> Fault:
    """A fault of the first requests whose method and path have these words."""
    left = [number]

    def fault(method: str, path: str) -> str | None:
        if not all(word in f"{method} {path}" for word in words) or not left[0]:
            return None
        left[0] -= 1
        return answer

    return fault


REQUESTS: dict[str, Callable[[Storage], Any]] = {
    "read": lambda storage: storage.read_bytes("a.json"),
    "read JSON": lambda storage: storage.read_json("a.json"),
    "write": lambda storage: storage.write_bytes(b"[2]", "a.json"),
    "exists": lambda storage: storage.exists("a.json"),
    "list": lambda storage: storage.list(),
    "delete": lambda storage: storage.delete("a.json"),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", REQUESTS)
def test_patient_storage_asks_again_and_any_other_says_that_it_does_not_answer(store: ObjectStore, name: str) -> None:
    request, bucket = REQUESTS[name], f"patient-{name.lower().replace(' ', '-')}"
    storage = Storage(store.bucket(bucket))
    storage.write_bytes(b"[1]", "a.json")
    expected = None if name == "delete" else request(storage)
    storage.write_bytes(b"[1]", "a.json")
    store.fault = first(4, "503", f"/{bucket}")
    with pytest.raises(StorageError, match=r"has not answered for \d+ s.*try again"):
        request(storage)
    assert request(Storage(storage.root, patience=60)) == expected


RIGHTS = {
    "read": "s3:GetObject",
    "read JSON": "s3:GetObject",
    "write": "s3:PutObject",
    "exists": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:GetObject",  # whether there is anything to delete is asked first
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", REQUESTS)
def test_refusal_is_asked_about_again_for_a_while_and_then_names_bucket_and_right(
    store: ObjectStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, bucket = REQUESTS[name], f"refused-{name.lower().replace(' ', '-')}"
    storage = Storage(store.bucket(bucket))
    storage.write_bytes(b"[1]", "a.json")
    store.fault = first(3, "403", f"/{bucket}")
    request(Storage(storage.root, patience=60))
    storage.write_bytes(b"[1]", "a.json")
    store.fault = lambda method, path: "403"
    monkeypatch.setattr(datasets.object_store, "REFUSED_SECONDS", 0.1)
    for patience in (0, 60):
        with pytest.raises(UnusableError, match=f"lack the right {RIGHTS[name]} on the bucket '{bucket}'"):
            request(Storage(storage.root, patience=patience))


def test_bucket_that_is_gone_is_said_to_be(store: ObjectStore) -> None:
    """To reads it is as empty as one that never had anything in it."""
    storage = Storage(store.bucket("gone-soon"), patience=60)
    storage.check_there()
    store.client().delete_bucket(Bucket="gone-soon")
    with pytest.raises(UnusableError, match=r"there is no such bucket; create it.*'gone-soon'"):
        storage.write_bytes(b"[1]", "a.json")
    assert not storage.exists("a.json")
    with pytest.raises(UnusableError, match="there is no bucket 'gone-soon' any more; create it"):
        storage.check_there()


def test_storage_that_does_not_answer_at_first_is_not_called_wrong(store: ObjectStore, hasty: None) -> None:
    storage = Storage(store.bucket("away"))
    store.fault = lambda method, path: "503"
    for check in (storage.check_readable, storage.check_writable):
        with pytest.raises(ValueError, match="it does not answer now; try again") as told:
            check()
        assert "choose another storage" not in str(told.value)


@pytest.mark.usefixtures("hasty")
def test_checkpoint_waits_for_the_store_to_be_written_and_read(store: ObjectStore) -> None:
    uri = f"{store.bucket('checkpoints')}/latest.pt"
    store.fault = first(3, "503", "latest.pt")
    save_state(uri, {"step": 1})
    store.fault = first(3, "503", "latest.pt")
    assert load_state(uri) == {"step": 1}


@pytest.mark.usefixtures("hasty")
def test_training_goes_on_without_a_checkpoint_in_its_midst(
    store: ObjectStore, shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, assignment = (
        f"{store.bucket('midst')}/checkpoints/t",
        trials.assignment(shards, trials.settings("pretrain")),
    )
    store.fault = first(2, "503", "PUT", "latest.pt")
    monkeypatch.setattr(datasets.object_store, "OUTAGE_SECONDS", 0.0)
    run_stage("pretrain", assignment, Context(folder, checkpoint_seconds=0))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "an older one counts until the next" in caplog.text
    saved = load_state(f"{folder}/latest.pt")
    assert saved is not None and saved["progress"]["step"] == 6
    undisturbed = run_stage("pretrain", assignment, Context(str(tmp_path))).progress
    assert saved["progress"]["history"] == undisturbed.history


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def study_file(folder: Path, shards: str, *stages: str, **changes: Any) -> Path:
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    chosen = {name: stage for name, stage in tiny()["stages"].items() if name in stages}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(data=data, stages=chosen, **changes)))
    return path


def test_what_only_informs_ends_no_trial_and_no_launch(store: ObjectStore, shards: str, tmp_path: Path) -> None:
    """Neither how far a trial is, which the budget asks for too, nor on which nodes its workers are."""
    execution = {"workers": 2, "per_worker": {"CPU": 1}}
    file, refused = study_file(tmp_path, shards, "supervised", execution=execution), set()

    def uninformed(method: str, path: str) -> str | None:
        name = path.rpartition("/")[2]
        if name not in ("progress.json", "nodes.json") or (method != "PUT" and not refused):
            return None  # a trial that begins has to know whether it began before
        refused.add((method, name))
        return "403"

    store.fault = uninformed
    url = store.bucket("uninformed")
    launched = run("launch", file, "--storage", url, "--budget-gpu-hours", "1")
    assert launched.returncode == 0 and "1 done" in launched.stdout, launched.stdout + launched.stderr
    assert {("PUT", "progress.json"), ("HEAD", "progress.json"), ("PUT", "nodes.json")} <= refused
    assert len(read_records(Storage(url))[0]) == 1


def one_sentence(ended: subprocess.CompletedProcess[str]) -> str:
    """What a launch says that a storage ended."""
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stdout + ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_trial_that_the_storage_refuses_ends_the_launch_and_goes_on_at_the_next(
    store: ObjectStore, shards: str, tmp_path: Path
) -> None:
    """And is not said to have failed: any other trial would have met the same."""
    file, url = study_file(tmp_path, shards, "pretrain", "linear"), store.bucket("innocent")
    store.fault = lambda method, path: "403" if method == "PUT" and "/records/pretrain" in path else None
    said = one_sentence(run("launch", file, "--storage", url))
    assert "lack the right s3:PutObject on the bucket 'innocent'" in said
    assert read_failures(Storage(url)) == ([], [])
    store.fault = None
    again = run("launch", file, "--storage", url, "--dry-run").stdout
    assert [line.partition("-")[0] for line in again.splitlines()] == ["pretrain", "linear"]


def test_bucket_deleted_in_mid_run_ends_the_launch(store: ObjectStore, shards: str, tmp_path: Path) -> None:
    """Everything in it seems to be absent: other trials' results, and the launch's own claim."""
    begun = list[str]()

    def gone(method: str, path: str) -> str | None:
        if method == "PUT" and "progress.json" in path:
            begun.append(path)
        return "404" if begun else None

    store.fault, url = gone, store.bucket("deleted")
    said = one_sentence(run("launch", study_file(tmp_path, shards, "pretrain", "linear"), "--storage", url))
    assert "bucket" in said and "'deleted'" in said and "create it" in said and "another driver" not in said
    assert "failed" not in said


HASTY = """
import sys
import datasets.object_store
from study.cli import main
datasets.object_store.S3_ATTEMPTS, datasets.object_store.PAUSE_SECONDS = 1, 0.1
sys.exit(main(sys.argv[1:]))
"""


def test_launch_waits_for_the_storage_to_tell_how_a_trial_ended(
    store: ObjectStore, shards: str, tmp_path: Path
) -> None:
    """Once a record is written only the launch asks for it; its client tries once here and not for half a minute."""
    url, written, refused = store.bucket("ending"), list[str](), list[str]()

    def away(method: str, path: str) -> str | None:
        if "/records/pretrain" not in path:
            return None
        if method == "PUT":
            written.append(path)
        elif written and len(refused) < 5:
            refused.append(method)
            return "503"
        return None

    store.fault = away
    file = study_file(tmp_path, shards, "pretrain", "linear")
    command = [sys.executable, "-c", HASTY, "launch", str(file), "--storage", url]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert launched.returncode == 0 and "2 done" in launched.stdout, launched.stdout + launched.stderr
    assert len(refused) == 5 and "does not answer, and is asked again" in launched.stderr


def test_storage_that_does_not_answer_is_never_said_to_hold_bad_records(
    store: ObjectStore, shards: str, tmp_path: Path
) -> None:
    url, file = store.bucket("good"), study_file(tmp_path, shards, "pretrain")
    storage = Storage(url)
    write_record(storage, synthetic.record(next(iter(expand(load_study(file)).specs))))
    store.fault = lambda method, path: "503" if method == "GET" and "/records/pretrain" in path else None
    for command in ("launch", "plan", "status", "report"):
        told = subprocess.run(
            [sys.executable, "-c", HASTY, command, str(file), "--storage", url],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        *warnings, error = told.stderr.splitlines()
        assert all(line.startswith("warning: only `pretrain` is run") for line in warnings), told.stderr
        assert told.returncode == 2 and error.startswith(f"error: the storage {url} has not answered"), command
        assert "try again" in told.stderr and "delete or" not in told.stderr and "Traceback" not in told.stderr


def test_failures_of_few_trials_are_read_without_listing_all(store: ObjectStore) -> None:
    """Of many, a listing tells which have none: nobody asks for each."""
    storage = Storage(store.bucket("few"))
    note_error(storage, "b", RuntimeError("out of memory"))
    for others in (["a"], [f"t{number}" for number in range(100)]):
        store.requests.clear()
        failures, problems = read_failures(storage, [*others, "b"])
        assert [failure.id for failure in failures] == ["b"] and not problems
        listed = any(path.startswith("/few?") for _, path in store.requests)
        assert listed == (len(others) > 1) and len(store.requests) < 6
