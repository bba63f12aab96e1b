"""What a calibration measures beside the steps of a training: reading, decoding, evaluation, and busy neighbors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import datasets.stream
import study.beside
from datasets.batches import Batch
from reports.storage import Storage
from studies import tiny, tiny_study
from study.calibrate import calibrate
from study.config import Study
from study.images import ShardedImages, find_images
from study.plan import Plan, make_plan
from study.throughput import Calibration, Measurement, Throughput

SLOW = 0.02  # seconds to read and decode an image


def pretraining(shards: str, tmp_path: Path) -> tuple[Study, Plan, ShardedImages]:
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    made = tiny_study(data=data, stages={"pretrain": tiny()["stages"]["pretrain"]})
    images = find_images(made, Storage(str(tmp_path)))
    assert isinstance(images, ShardedImages)
    return made, make_plan(made, images), images


def test_reading_and_evaluation_are_counted_for_every_image_of_a_trial(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that take 20 ms to be read: a trial takes at least that for each that it trains on or is evaluated on."""
    _, plan, images = pretraining(shards, tmp_path)

    def slow(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for batch in datasets.stream.eval_batches(*arguments, **options):
            time.sleep(SLOW * len(batch.ids))
            yield batch

    monkeypatch.setattr(study.beside, "eval_batches", slow)
    lines: list[str] = []
    found = calibrate(plan, lines.append, images)
    (trial,) = plan.trials.values()
    manifest = images.manifest
    read = trial.rows + 2 * manifest.test_images + manifest.labelled_images  # the last two for nearest neighbors
    (one,) = found.measurements
    assert SLOW * read <= one.beside < 4 * SLOW * read + 5
    assert f"{one.beside:.3g} s a trial to read and evaluate images" in lines[-1]


def test_what_is_beside_the_steps_is_added_once_to_a_prediction(shards: str, tmp_path: Path) -> None:
    _, plan, _ = pretraining(shards, tmp_path)
    (trial,) = plan.trials.values()
    kind = {"architecture": "r10w0.0625", "stage": "pretrain", "batch": 100, "image_size": 8, "precision": "float32"}

    def predicted(beside: float) -> float:
        measured = Measurement(**kind, steps=5, seconds=2.0, flops=1e9, beside=beside)
        made = Calibration(
            device="cpu", hardware="here", measured_at=datetime.now(UTC), versions={}, measurements=(measured,)
        )
        return Throughput([], [made], "cpu", "here").seconds(trial)

    assert predicted(0.0) == pytest.approx(2e-9 * trial.train_flops)
    assert predicted(70.0) == pytest.approx(2e-9 * trial.train_flops + 70)


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (2.9, True)])
def test_neighbors_and_what_is_left_out_are_said(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    _, plan, _ = pretraining(shards, tmp_path)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    lines: list[str] = []
    found = calibrate(plan, lines.append)
    said = "\n".join(lines)
    assert found.load == load and found.measurements[0].beside == 0
    assert (f"a load of {load} on 2 cores" in said) == busy
    assert "reading, decoding and evaluation are left out" in said
