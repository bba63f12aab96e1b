"""Whole studies through Ray on this machine, from the command line a user types."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from datasets.manifest import manifest_text, parse_manifest
from reports.progress import Progress
from reports.storage import Storage
from reports.stored import read_records
from studies import tiny
from study.grid import expand
from study.lease import lease
from study.load import load_study
from study.progress import write_progress

pytestmark = pytest.mark.timeout(240)


def study_file(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(**changes)))
    return path


def sharded(shards: str) -> dict[str, Any]:
    """Data that needs no sharding, which is most of the time of a small launch."""
    return {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}


def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=230)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A study of all stages that ran once: its file, its storage, what the launch printed."""
    folder = tmp_path_factory.mktemp("finished")
    file, storage = study_file(folder), folder / "runs"
    return file, storage, run("launch", file, "--storage", storage).stdout


def test_every_trial_has_a_record_and_the_last_line_is_the_report(finished: tuple[Path, Path, str]) -> None:
    _, storage, printed = finished
    records, problems = read_records(Storage(str(storage)))
    assert not problems
    assert sorted(record.spec.stage for record in records) == [
        "distill",
        "finetune",
        "linear",
        "pretrain",
        "supervised",
    ]
    for record in records:
        assert record.metrics["evaluated"] == record.data.test_images == 100
        assert 0 <= record.metrics["top1"] <= record.metrics["top5"] <= 1
    report = printed.splitlines()[-1].removeprefix("report: ")
    assert "<html" in Path(report).read_text(encoding="utf-8")


def test_launch_ends_with_the_answer_of_its_report(finished: tuple[Path, Path, str]) -> None:
    _, _, printed = finished
    report = printed.splitlines()[-1]
    page = Path(report.removeprefix("report: ")).read_text(encoding="utf-8")
    (answer,) = re.findall(r'<div class="answer"><h2>Answer</h2>(.*?)</div>', page)
    sentences = [html.unescape(one).replace("\u00a0", " ") for one in re.findall("<p>(.*?)</p>", answer)]
    assert len(sentences) >= 2 and "r10w0.0625" in sentences[0]
    assert printed.endswith("".join(["\nAnswer:\n", *(f"  {one}\n" for one in sentences), "\n", f"{report}\n"]))


def test_what_is_finished_is_said_with_where_its_report_is(finished: tuple[Path, Path, str]) -> None:
    file, storage, printed = finished
    report = printed.splitlines()[-1]
    dry = run("launch", file, "--storage", storage, "--dry-run").stdout
    assert dry.splitlines() == ["nothing to run: all 5 trials are finished", report]
    assert run("status", file, "--storage", storage).stdout.splitlines()[-1] == report


def test_launching_again_runs_no_trial(finished: tuple[Path, Path, str]) -> None:
    file, storage, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (storage / "records").iterdir()}
    printed = run("launch", file, "--storage", storage).stdout
    assert "running" not in printed
    assert {path: path.stat().st_mtime_ns for path in (storage / "records").iterdir()} == before


def test_launch_that_has_nothing_to_run_removes_what_a_killed_one_has_left(
    finished: tuple[Path, Path, str], ray_folder: Path
) -> None:
    file, storage, _ = finished
    left = ray_folder / "labelscale-12345678"
    left.mkdir()
    (left / "held").touch()
    run("launch", file, "--storage", storage)
    assert not left.exists()


def test_plan_and_status_know_what_is_finished(finished: tuple[Path, Path, str]) -> None:
    file, storage, _ = finished
    assert "to do " not in run("plan", file, "--storage", storage).stdout.split("total")[1].replace("to do\n", "")
    status = run("status", file, "--storage", storage).stdout
    assert status.splitlines()[1].split() == ["pretrain", "1", "0", "0", "0", "0"]


def test_plan_explains_what_differs_from_a_finished_trial(finished: tuple[Path, Path, str]) -> None:
    file, storage, _ = finished
    printed = run("plan", file, "--storage", storage, "--set", "pretrain.optimization.learning_rate=0.4").stdout
    assert "settings.optimization.learning_rate 0.3 -> 0.4" in printed


def test_data_that_changed_under_a_study_is_refused(finished: tuple[Path, Path, str]) -> None:
    file, storage, _ = finished
    manifest = next((storage / "data").glob("*/manifest.json"))
    original = manifest.read_bytes()
    manifest.write_bytes(manifest_text(parse_manifest(original).model_copy(update={"fingerprint": "0" * 64})))
    try:
        refused = run("launch", file, "--storage", storage, check=False)
    finally:
        manifest.write_bytes(original)
    assert refused.returncode == 2
    assert "changed under this study" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "grid.architecture=[r19]"], "r18"),
        (["--set", "data.source=/nowhere/photos"], "/nowhere/photos"),
        (["--set", "data.train_images=7", "--set", "data.train_limit=null"], "exceed the 7 training images"),
        (["--set", "data.classes=11"], "11"),
        (["--set", "execution.per_worker={CPU: 1000}"], "room for 0"),
        (["--storage", "/proc/labelscale"], "/proc/labelscale"),
    ],
)
def test_bad_input_costs_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = run("launch", study_file(tmp_path), "--storage", tmp_path / "runs", *arguments, check=False)
    assert refused.returncode == 2
    assert message in refused.stderr and "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("runs/records/*"))
    if "execution" in arguments[-1]:
        assert not list(tmp_path.glob("runs/data/*")), "images were sharded for nothing"


def test_failed_trial_fails_alone_and_is_named(shards: str, tmp_path: Path) -> None:
    stages = tiny()["stages"]
    stages["supervised"]["optimization"] |= {"learning_rate": 1e6, "epochs": 20}
    file = study_file(tmp_path, stages=stages, data=sharded(shards))
    launched = run("launch", file, "--storage", tmp_path / "runs", check=False)
    assert launched.returncode == 1
    assert "failed: supervised-" in launched.stderr and "NonFiniteLossError" in launched.stderr
    records, _ = read_records(Storage(str(tmp_path / "runs")))
    assert {record.spec.stage for record in records} == {"pretrain", "linear", "finetune", "distill"}


def weights(storage: Path) -> dict[str, torch.Tensor]:
    """All weights of all models in a storage, by trial and name."""
    found = {}
    for path in sorted(storage.glob("checkpoints/*/model.pt")):
        for name, value in torch.load(path, weights_only=True)["module"].items():
            found[f"{path.parent.name}/{name}"] = value
    return found


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    """Kill a launch, and see that nothing of its Ray stays: no process, and no socket."""
    tree = psutil.Process(process.pid).children(recursive=True)
    ports = listening(tree)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert all(one.status() == psutil.STATUS_ZOMBIE for one in alive) and len(tree) > 5 and ports
    assert not ports & {one.laddr.port for one in psutil.net_connections() if one.status == psutil.CONN_LISTEN}


def listening(processes: list[psutil.Process]) -> set[int]:
    sockets = [one for process in processes for one in process.net_connections()]
    return {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}


@pytest.mark.timeout(600)  # three launches, of which busy machines take minutes each
def test_killed_study_continues_and_ends_with_the_same_weights(shards: str, tmp_path: Path) -> None:
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "finetune")}
    stages["pretrain"]["optimization"]["epochs"] = 100
    stages["pretrain"]["when"] = [{"where": {"architecture": "r10w0.125"}, "set": {"optimization.epochs": 400}}]
    stages["finetune"]["optimization"]["epochs"] = 3
    grid = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1]}
    execution = {"workers": 1, "per_worker": {"CPU": 1}, "checkpoint_seconds": 0.2}
    file = study_file(tmp_path, stages=stages, grid=grid, execution=execution, data=sharded(shards))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "study", "launch", str(file), "--storage", str(killed)]
    temporary = tempfile.mkdtemp(dir="/tmp")  # a short path, as sockets need
    variables = {**os.environ, "TMPDIR": temporary}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables)
    deadline = time.monotonic() + 240
    small_done, big_begun = "records/pretrain-r10w0.0625-*.json", "checkpoints/pretrain-r10w0.125-*/latest.pt"
    while not (list(killed.glob(small_done)) and list(killed.glob(big_begun))):
        assert time.monotonic() < deadline and process.poll() is None, "no moment with one trial done and one begun"
        time.sleep(0.02)
    kill_driver(process)
    assert list(Path(temporary).iterdir()) == []
    Path(temporary).rmdir()
    said = run("status", file, "--storage", killed, check=False).stdout
    assert "interrupted at" in said and "running:" not in said
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("records/*.json")}
    assert kept and list(killed.glob(big_begun)) and not list(killed.glob("records/pretrain-r10w0.125-*"))

    run("launch", file, "--storage", killed)
    run("launch", file, "--storage", whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    records, _ = read_records(Storage(str(killed)))
    sessions = {record.id: record.cost.sessions for record in records if record.spec.architecture == "r10w0.125"}
    assert max(sessions.values()) == 2, "the interrupted trial did not continue from its checkpoint"
    resumed, undisturbed = weights(killed), weights(whole)
    assert resumed.keys() == undisturbed.keys() and resumed
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)


def test_two_workers_give_the_losses_of_one(shards: str, tmp_path: Path) -> None:
    stages = {"pretrain": tiny()["stages"]["pretrain"]}
    stages["pretrain"]["optimization"] |= {"epochs": 5, "precision": "float64"}  # 11 steps of 100 images
    histories = []
    for workers in (1, 2):
        execution = {"workers": workers, "per_worker": {"CPU": 1}}
        file = study_file(tmp_path, stages=stages, execution=execution, data=sharded(shards))
        run("launch", file, "--storage", tmp_path / f"workers-{workers}")
        [record], _ = read_records(Storage(str(tmp_path / f"workers-{workers}")))
        assert record.resources.workers == workers
        histories.append([row["contrastive_loss"] for row in record.history])
    one, two = histories
    assert len(one) == len(two) >= 10
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert one[-1] < one[0]


def test_source_that_changed_is_refused_and_finished_results_outlive_their_data(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(70):
        split, label = "test" if number >= 60 else "train", "ab"[number % 2]
        (photos / split / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 10, 3), np.uint8)
        Image.fromarray(pixels).save(photos / split / label / f"{number}.png")
    data = {"name": "photos", "source": str(photos), "image_size": 8, "train_images": 60, "classes": 2}
    stages = {"supervised": tiny()["stages"]["supervised"]}
    file, storage = study_file(tmp_path, data=data, stages=stages), tmp_path / "runs"
    run("launch", file, "--storage", storage)

    added = photos / "train" / "a" / "one-more.png"
    added.write_bytes((photos / "train" / "b" / "1.png").read_bytes())
    refused = run("launch", file, "--storage", storage, "--set", "grid.seed=[0, 1]", check=False)
    assert refused.returncode == 2
    assert "changed" in refused.stderr and str(photos) in refused.stderr and "Traceback" not in refused.stderr
    added.unlink()

    other_ranks = run(
        "plan", file, "--storage", storage, "--set", f"data.source={storage}/data/photos", "--set", "data.label_seed=1",
        check=False,
    )  # fmt: skip
    assert other_ranks.returncode == 2 and "label_seed 0" in other_ranks.stderr

    shutil.rmtree(storage / "data")
    assert "report: " in run("launch", file, "--storage", storage).stdout
    assert not (storage / "data").exists()


def test_status_tells_running_from_interrupted_trials(tmp_path: Path) -> None:
    """A trial runs while the launch lives that runs it, and as long as it says so."""
    file, storage = study_file(tmp_path), Storage(str(tmp_path / "runs"))
    pretrain, supervised = (id for id in expand(load_study(file)).specs if id.startswith(("pretrain", "supervised")))

    def status() -> str:
        found = run("status", file, "--storage", tmp_path / "runs", check=False)
        assert found.returncode == 1
        return found.stdout

    with lease(storage, "tiny"):
        write_progress(storage, pretrain, Progress(0.4, time.time(), datetime.now(UTC).isoformat(), saved=0.3))
        stale = {"share": 0.9, "updated_at": time.time() - 3600, "launch": datetime.now(UTC).isoformat()}
        storage.write_bytes(json.dumps(stale).encode(), "checkpoints", supervised, "progress.json")
        said = status()
    assert f"running: {pretrain}: 40% of its steps" in said
    assert f"interrupted at 90 %, saved at 0 %: {supervised}" in said
    said = status()
    assert said.splitlines()[1].split() == ["pretrain", "0", "0", "1", "0", "0"]
    assert f"interrupted at 40 %, saved at 30 %: {pretrain}" in said
    with lease(storage, "tiny"):  # another launch, which has not come to it yet
        assert f"interrupted at 40 %, saved at 30 %: {pretrain}" in status()


HEAD = """
import sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def test_launch_on_a_running_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    file = study_file(tmp_path, stages={"supervised": tiny()["stages"]["supervised"]})
    labels = {**os.environ, "RAY_OVERRIDE_LABELS": '{"labelscale/price":"c5.large"}'}  # as Ray's autoscaler does
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, env=labels
    )
    assert head.stdin is not None and head.stdout is not None
    try:
        address = head.stdout.readline().decode().strip()
        launched = run("launch", file, "--storage", tmp_path / "runs", "--address", address)
        assert "1 done" in launched.stdout
        assert "files of code" in launched.stdout and "the cluster asks for no token" in launched.stdout
        [record] = read_records(Storage(str(tmp_path / "runs")))[0]
        assert record.resources is not None and record.resources.node_type == "c5.large"
    finally:
        head.stdin.close()
        head.wait(30)
        head.stdout.close()
    gone = run("launch", file, "--storage", tmp_path / "other", "--address", address, check=False)
    assert gone.returncode == 2 and "no Ray cluster answers" in gone.stderr and "Traceback" not in gone.stderr
