"""What a worker refuses of the job that a launch gave it; without Ray's processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import trials
from datasets.manifest import read_manifest
from datasets.schema import MANIFEST_NAME
from datasets.splits import subset_hash
from digit_shards import CLASSES, SIZE, TRAIN, digits, forget_checksums, relabel, write
from reports.progress import read_progress
from reports.records import Record
from reports.storage import Storage
from reports.stored import read_record, record_ids, write_record
from studies import tiny_study
from study import execute
from study.execute import context_of, run_trial, run_worker
from study.failures import note_error
from study.images import ShardedImages
from study.job import Job
from study.plan import make_plan
from trainables import loop
from trainables.context import Context
from trainables.protocol import ProtocolError
from trainables.spec import Stage
from trainables.stage import Assignment, Outcome
from trainables.stages import run_stage


def job(shards: str, storage: Path, stage: Stage = "supervised") -> dict[str, Any]:
    """A trial of a small study as a launch plans it on these shards."""
    data = {"name": "digits", "source": shards, "image_size": SIZE, "train_images": TRAIN, "classes": CLASSES}
    manifest = read_manifest(shards)
    plan = make_plan(tiny_study(data=data), ShardedImages(shards, manifest))
    [trial] = [trial for trial in plan.trials.values() if trial.spec.stage == stage]
    return {
        "id": trial.id,
        "study": "tiny",
        "trial": trial.spec.plain(),
        "storage": str(storage),
        "shards": shards,
        "workers": 1,
        "per_worker": {"CPU": 1.0},
        "tf32": True,
        "channels_last": True,
        "min_effective_rank": 1.5,
        "checkpoint_seconds": 120.0,
        "steps": trial.steps,
        "fingerprint": manifest.fingerprint,
        "subset_hash": None if stage == "pretrain" else subset_hash(shards, manifest, 0.1),
        "train_flops": float(trial.train_flops),
        "commit": "unknown",
        "dirty": True,
        "launched_at": "2026-01-01T00:00:00+00:00",
    }


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
def test_job_on_the_planned_images_ends_with_a_record(shards: str, tmp_path: Path, stage: Stage) -> None:
    planned = {**job(shards, tmp_path, stage), "planned_device_seconds": 1.5}
    run_worker(planned)
    record = read_record(Storage(str(tmp_path)), planned["id"])
    assert record.cost.planned_device_seconds == 1.5
    assert record.data.fingerprint == planned["fingerprint"] and record.history[-1]["step"] == planned["steps"]
    assert stage == "pretrain" or record.data.subset_hash == planned["subset_hash"]
    assert record.resources.threads == torch.get_num_threads() and record.resources.earlier_layouts is None


def test_record_notes_the_workers_and_threads_of_earlier_sessions(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def continued(stage: Stage, assignment: Assignment, context: Context) -> Outcome:
        outcome = run_stage(stage, assignment, context)
        outcome.progress.layout, outcome.progress.earlier_layouts = (1, 3), [(1, 4), (2, 1)]
        return outcome

    monkeypatch.setattr(execute, "run_stage", continued)
    planned = job(shards, tmp_path)
    run_worker(planned)
    resources = read_record(Storage(str(tmp_path)), planned["id"]).resources
    assert (resources.threads, resources.earlier_layouts) == (3, ((1, 4), (2, 1)))


@pytest.mark.parametrize(("tf32", "precision"), [(True, "tf32"), (False, "ieee")])
def test_gpus_round_convolutions_as_the_study_says(shards: str, tmp_path: Path, tf32: bool, precision: str) -> None:
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in settings]
    planned = job(shards, tmp_path) | {"per_worker": {"GPU": 1.0}, "tf32": tf32, "channels_last": False}
    try:
        context = context_of(Job.model_validate(planned), Storage(str(tmp_path)))
        assert [backend.fp32_precision for backend in settings] == ["ieee", precision]
    finally:
        for backend, precision in zip(settings, before, strict=True):
            backend.fp32_precision = precision
    assert context.device.type == "cuda" and not context.channels_last


def refused(planned: dict[str, Any]) -> str:
    """What a worker says that refuses a job before it trains."""
    with pytest.raises(ProtocolError) as error:
        run_worker(planned)
    assert not record_ids(Storage(planned["storage"]))
    assert {path.name for path in Path(planned["storage"], "checkpoints", planned["id"]).iterdir()} == {"progress.json"}
    return str(error.value)


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
def test_worker_refuses_images_that_were_not_planned_with(shards: str, tmp_path: Path, stage: Stage) -> None:
    repainted = write(digits().repainted(0), tmp_path / "repainted")
    planned = job(shards, tmp_path / "runs", stage)
    message = refused(planned | {"shards": repainted})
    assert planned["id"] in message and repainted in message
    assert planned["fingerprint"] in message and read_manifest(repainted).fingerprint in message


def test_worker_refuses_another_labelled_subset_of_the_same_images(shards: str, tmp_path: Path) -> None:
    """The fingerprint is that of the plan, but other rows come first."""
    rows = digits()
    ids = rows.ids.copy()
    ids[[0, 100]] = ids[[100, 0]]
    others = write(dataclasses.replace(rows, ids=ids), tmp_path / "others")
    manifest = read_manifest(others).model_copy(update={"fingerprint": read_manifest(shards).fingerprint})
    (Path(others) / MANIFEST_NAME).write_text(manifest.model_dump_json())
    planned = job(shards, tmp_path / "runs")
    message = refused(planned | {"shards": others})
    assert planned["subset_hash"] in message and subset_hash(others, manifest, 0.1) in message


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
@pytest.mark.parametrize("name", ["train-0000000000.parquet", "train-0000000096.parquet", "test-0000000000.parquet"])
def test_shard_with_other_labels_than_were_sharded_fails_the_trial(tmp_path: Path, stage: Stage, name: str) -> None:
    """Also in a process that has read the shard before."""
    uri = write(digits(), tmp_path / "shards")
    planned = job(uri, tmp_path / "runs", stage)
    run_worker(planned)
    relabel(uri, name)
    assert read_manifest(uri).fingerprint == planned["fingerprint"]
    with pytest.raises(ValueError, match=f"the shard {uri}/{name} is damaged"):
        run_worker(planned | {"storage": str(tmp_path / "others")})
    forget_checksums(uri)  # the hash of the labels tells by itself
    with pytest.raises(ValueError, match=f"the labels in {name} .* are not those that were sharded"):
        run_worker(planned | {"storage": str(tmp_path / "others")})
    assert not record_ids(Storage(str(tmp_path / "others")))
    with pytest.raises(ValueError, match="are not those that were sharded"):
        trials.run(stage, uri, tmp_path / "trial", tmp_path)


def test_other_labels_than_were_sharded_cannot_be_planned_with(tmp_path: Path) -> None:
    uri = write(digits(), tmp_path / "shards")
    relabel(uri, "train-0000000000.parquet")
    with pytest.raises(
        ValueError, match=r"train-0000000000\.parquet is damaged: .*; put the file back from a copy, or"
    ):
        job(uri, tmp_path)
    forget_checksums(uri)
    with pytest.raises(ValueError, match="are not those that were sharded; restore the file"):
        job(uri, tmp_path)


def test_worker_refuses_other_labels_of_the_same_images(shards: str, tmp_path: Path) -> None:
    """Fingerprint and ids are those of the plan, and the labels those of the manifest."""
    relabelled = write(digits().relabelled(0), tmp_path / "relabelled")
    manifest = read_manifest(relabelled).model_copy(update={"fingerprint": read_manifest(shards).fingerprint})
    (Path(relabelled) / MANIFEST_NAME).write_text(manifest.model_dump_json())
    planned = job(shards, tmp_path / "runs")
    message = refused(planned | {"shards": relabelled})
    assert planned["subset_hash"] in message and subset_hash(relabelled, manifest, 0.1) in message


def test_shards_without_a_hash_of_their_labels_are_used_as_they_are(shards: str, tmp_path: Path) -> None:
    uri = write(digits(), tmp_path / "shards")
    files = [file.model_copy(update={"labels_sha256": None}) for file in read_manifest(uri).files]
    manifest = read_manifest(uri).model_copy(update={"files": tuple(files)})
    (Path(uri) / MANIFEST_NAME).write_text(manifest.model_dump_json())
    run_worker(job(uri, tmp_path / "runs"))
    assert subset_hash(uri, manifest, 0.1) == subset_hash(shards, read_manifest(shards), 0.1)


def test_trial_that_stops_early_has_no_record(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = job(shards, tmp_path)
    assert planned["steps"] == 2 * 14 // 20 + 1
    monkeypatch.setattr(loop, "total_steps", lambda *arguments: 1)
    with pytest.raises(ProtocolError, match=rf"{planned['id']} made 1 steps where 2 were planned"):
        run_worker(planned)
    assert not record_ids(Storage(str(tmp_path)))


def test_retried_attempt_that_finds_a_record_deletes_what_the_first_one_left(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, storage, told = job(shards, tmp_path), Storage(str(tmp_path)), list[dict[str, int]]()
    run_worker(planned)
    folder = tmp_path / "checkpoints" / planned["id"]
    kept, written = sorted(folder.iterdir()), (folder / "model.pt").read_bytes()
    for name in ("latest.pt", f".latest.pt.{32 * '0'}", "progress.json"):
        (folder / name).write_bytes(b"left by a node that died")
    note_error(storage, planned["id"], RuntimeError("of an earlier launch"))
    monkeypatch.setattr("ray.tune.report", told.append)  # there is no Tune here
    run_trial({"job": planned})
    assert sorted(folder.iterdir()) == kept == [folder / "model.pt"] and told == [{"finished": 1}]
    assert (folder / "model.pt").read_bytes() == written


def test_trial_whose_checkpoint_rotted_notes_it_for_the_launch_and_begins_anew(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, storage, told = job(shards, tmp_path), Storage(str(tmp_path)), list[str]()
    path = tmp_path / "checkpoints" / planned["id"] / "latest.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a checkpoint")

    def write(storage: Storage, record: Record) -> None:
        known = read_progress(storage, planned["id"])
        told.append("" if known is None else known.note)
        write_record(storage, record)

    monkeypatch.setattr(execute, "write_record", write)
    run_worker(planned)
    assert told == [
        f"{planned['id']} begins anew, for its checkpoint cannot be used: {path} is damaged: it does not end as a "
        "finished checkpoint does"
    ]
    assert read_record(storage, planned["id"]).cost.sessions == 1 and not path.exists()
