"""Commands that are told to end, by Ctrl-C or SIGTERM: what they keep, what they say, and how soon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from reports.progress import read_progress
from reports.storage import Storage
from studies import tiny

pytestmark = pytest.mark.timeout(240)

STARTED: list[subprocess.Popen[str]] = []

STEPS = 1500  # of 200 images in batches of 100


def study_file(folder: Path, shards: str, steps: int = STEPS) -> Path:
    """Two pretrainings, which take minutes by default, and trials that wait for them."""
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "linear")}
    stages["pretrain"]["optimization"]["epochs"] = steps // 2
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    grid = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(stages=stages, grid=grid, data=data)))
    return path


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it for a terminal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def end_what_a_failed_test_has_started() -> Iterator[None]:
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


def end(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Exit code, errors and seconds until the end of a process; nothing of what libraries say of their end."""
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors and "0x" not in errors and "***" not in errors, errors
    return process.returncode, errors, time.monotonic() - began


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)


def trained(storage: Storage, more_than: float) -> bool:
    """Whether two trials have come further than a share of their steps."""
    known = [read_progress(storage, id) for id in storage.list("checkpoints")]
    return sum(one is not None and one.share > more_than and not one.ended for one in known) == 2


def saved_steps(storage: Path) -> list[int]:
    paths = sorted(storage.glob("checkpoints/pretrain-*/latest.pt"))
    return [torch.load(path, weights_only=True)["progress"]["step"] for path in paths]


def percents(steps: list[int]) -> str:
    return ", ".join(f"{step / STEPS * 100:.0f} %" for step in sorted(steps, reverse=True))


def status(file: Path, storage: Path) -> str:
    command = [sys.executable, "-m", "study", "status", str(file), "--storage", str(storage)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def test_interrupted_launch_saves_what_runs_and_goes_on_from_there(shards: str, tmp_path: Path) -> None:
    """Once by Ctrl-C in a terminal, which reaches every process, once by SIGTERM to the command alone."""
    file, folder = study_file(tmp_path, shards), tmp_path / "runs"
    storage = Storage(str(folder))
    launch = start("launch", file, "--storage", folder)
    until(lambda: trained(storage, 0.01), launch)
    for id in storage.list("checkpoints"):
        known = read_progress(storage, id)
        assert known is not None
        assert known.history[-1].keys() >= {"loss", "learning_rate", "probe_loss", "images_per_second", "data_wait"}
    os.killpg(launch.pid, signal.SIGINT)
    code, errors, seconds = end(launch)
    first = saved_steps(folder)
    assert code == 128 + signal.SIGINT and len(first) == 2 and min(first) > 0.01 * STEPS
    assert errors.splitlines()[-1] == f"interrupted: 2 trials saved at {percents(first)}; launch again to go on"
    assert seconds < 12 and storage.list("lease") == []
    said = status(file, folder)
    assert said.splitlines()[1].split() == ["pretrain", "0", "0", "2", "0", "0"]
    shares = re.findall(r"^interrupted at (\d+) %: pretrain", said, re.MULTILINE)
    assert sorted(map(int, shares)) == sorted(round(step / STEPS * 100) for step in first)

    launch = start("launch", file, "--storage", folder)
    until(lambda: trained(storage, max(first) / STEPS), launch)
    launch.send_signal(signal.SIGTERM)
    code, errors, seconds = end(launch)
    second = saved_steps(folder)
    assert code == 128 + signal.SIGTERM and seconds < 12
    assert errors.splitlines()[-1] == f"interrupted: 2 trials saved at {percents(second)}; launch again to go on"
    assert all(later > earlier for later, earlier in zip(second, first, strict=True))
    sessions = [torch.load(path, weights_only=True)["progress"] for path in folder.glob("checkpoints/*/latest.pt")]
    assert all(one["sessions"] == 2 and one["images"] == 100 * one["step"] for one in sessions)


def test_second_signal_ends_at_once_whatever_does_not_end(shards: str, tmp_path: Path) -> None:
    file, folder = study_file(tmp_path, shards), tmp_path / "runs"
    launch = start("launch", file, "--storage", folder)
    until(lambda: trained(Storage(str(folder)), 0.0), launch)
    workers = [one for one in psutil.Process(launch.pid).children(recursive=True) if "train" in one.name()]
    for worker in workers:
        worker.suspend()
    launch.send_signal(signal.SIGINT)
    time.sleep(1)
    assert launch.poll() is None, "it waits for the checkpoints of workers"
    launch.send_signal(signal.SIGINT)
    code, errors, seconds = end(launch)
    for worker in workers:
        worker.kill()
    assert code == 130 and seconds < 5 and errors.splitlines()[-1] == "interrupted; launch again to go on"


def test_interrupted_sharding_leaves_no_halves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 1500), ("test", 10)):
        for number in range(count):
            folder = tmp_path / "photos" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
    made = tmp_path / "shards"
    shard = start("shard", tmp_path / "photos", made)
    until(lambda: list(made.glob("*.partial")), shard)
    shard.send_signal(signal.SIGINT)
    code, errors, seconds = end(shard)
    assert code == 130 and errors == "interrupted\n" and seconds < 12
    assert list(made.iterdir()) == []


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal by now."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_that_has_barely_begun_ends_without_a_traceback(number: int, tmp_path: Path) -> None:
    plan = start("plan", Path("study/presets/imagenet-table1.yaml").absolute(), "--storage", tmp_path)
    while plan.poll() is None and not catches(plan.pid, signal.SIGTERM):
        time.sleep(0.01)
    if plan.poll() is None:
        plan.send_signal(number)
        code, errors, _ = end(plan)
        assert (code, errors) == (128 + number, "interrupted\n")


def test_signals_are_handled_until_the_report_is_written(shards: str, tmp_path: Path) -> None:
    """Ray takes SIGTERM back when it is left, and the report is written after that."""
    launch = start("launch", study_file(tmp_path, shards, steps=2), "--storage", tmp_path / "runs")
    until(lambda: len(list(tmp_path.glob("runs/records/*.json"))) == 4, launch)
    assert launch.stdout is not None
    reader = threading.Thread(target=lambda: any(line.startswith("report:") for line in launch.stdout))
    reader.start()
    looks = []
    while reader.is_alive():
        looks.append(catches(launch.pid, signal.SIGTERM))
        time.sleep(0.01)
    assert looks.count(False) < 10, f"{looks.count(False)} of {len(looks)} times SIGTERM was not handled"
    launch.communicate(timeout=60)
    assert launch.returncode == 0
