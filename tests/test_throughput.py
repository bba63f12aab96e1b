"""Predicted seconds against rates computed by hand."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reports.records import Record
from reports.storage import Storage
from studies import tiny_study
from study.plan import ExpectedImages, Plan, PlannedTrial, make_plan
from study.throughput import Calibration, Measurement, Throughput, told_calibrations, write_calibration
from synthetic import plain


def a_plan(**changes: Any) -> Plan:
    study = tiny_study(**changes)
    return make_plan(study, ExpectedImages.of(study))


def the(plan: Plan, stage: str) -> PlannedTrial:
    [found] = [trial for trial in plan.trials.values() if trial.spec.stage == stage]
    return found


def finished(seconds: float, flops: float = 1e9, **changes: Any) -> Record:
    """A record on the digits; by default of the tiny study's fine-tuning, which has 20 images a batch."""
    stage, architecture = changes.get("stage", "finetune"), changes.get("architecture", "r10w0.0625")
    content = plain(f"{stage}-{seconds:g}", stage, architecture, label_fraction=0.1)
    content["spec"]["data"]["image_size"] = changes.get("image_size", 8)
    content["spec"]["settings"]["optimization"] = {"global_batch_size": changes.get("batch", 20), "epochs": 2}
    content["resources"] |= {"device": changes.get("device", "cpu"), "workers": changes.get("workers", 1)}
    content["cost"] |= {"device_seconds": seconds, "train_flops": flops}
    return Record.model_validate(content)


def calibration(seconds: float, device: str = "cpu", hardware: str = "here", day: int = 1, **kind: Any) -> Calibration:
    fields = {"architecture": "r10w0.0625", "stage": "finetune", "batch": 20, "image_size": 8, "precision": "float32"}
    measured = Measurement(**{**fields, **kind}, steps=5, seconds=seconds, flops=1e9)
    return Calibration(
        device=device,
        hardware=hardware,
        measured_at=datetime(2026, 1, day, tzinfo=UTC),
        versions={"torch": "2"},
        measurements=(measured,),
    )


def predicted(records: list[Record], calibrations: list[Calibration], device: str = "cpu") -> tuple[float, str]:
    """Seconds for 1e9 operations of the tiny study's fine-tuning, and what tells them."""
    trial = the(a_plan(), "finetune")
    throughput = Throughput(records, calibrations, device, "here")
    return throughput.seconds(trial) / trial.train_flops * 1e9, throughput.source(trial)


def test_closest_finished_trials_count() -> None:
    others = [
        finished(64, stage="pretrain", architecture="r50"),
        finished(32, architecture="r50"),
        finished(16, stage="supervised"),
        finished(8, batch=40),
        finished(2),
        finished(4),
    ]
    assert predicted(others, []) == (3.0, "2 finished trials of the same architecture, stage and batch")
    assert predicted(others[:4], []) == (8.0, "1 finished trial of the same architecture and stage")
    assert predicted(others[:3], []) == (16.0, "1 finished trial of the same architecture")
    assert predicted(others[:2], []) == (32.0, "1 finished trial of the same stage")
    assert predicted(others[:1], []) == (64.0, "1 finished trial of other architectures and stages")


def test_rates_are_weighted_by_operations() -> None:
    assert predicted([finished(2, 1e9), finished(30, 7e9)], [])[0] == pytest.approx(4.0)


def test_nothing_is_invented() -> None:
    nothing: list[list[Record]] = [
        [],
        [finished(1, device="NVIDIA H100 80GB HBM3")],
        [finished(1, image_size=32)],
        [finished(1, flops=0)],
    ]
    for records in nothing:
        seconds, source = predicted(records, [])
        assert math.isnan(seconds) and source == ""
    assert math.isnan(predicted([], [calibration(1, image_size=16)])[0])
    assert math.isnan(predicted([], [calibration(1, precision="bfloat16")])[0])


def test_calibrations_tell_what_no_finished_trial_of_as_close_a_kind_does() -> None:
    same, of_stage = finished(2), finished(32, architecture="r50")
    assert predicted([same], [calibration(5)])[0] == pytest.approx(2)
    seconds, source = predicted([of_stage], [calibration(5)])
    assert seconds == pytest.approx(5)
    assert source == "calibration of the same architecture, stage and batch (here, 2026-01-01)"
    assert predicted([of_stage], [calibration(5, architecture="r34")])[0] == pytest.approx(32)


def test_calibration_of_this_machine_counts_before_newer_ones_of_others() -> None:
    found = [calibration(7, hardware="another", day=9), calibration(5), calibration(6, hardware="third", day=5)]
    assert predicted([], found)[0] == pytest.approx(5)
    assert predicted([], [found[0], found[2]])[0] == pytest.approx(7)


def test_device_may_be_a_pattern_or_whichever_gpu_most_trials_ran_on() -> None:
    names = ["cpu", "cpu", "cpu", "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"]
    records = [finished(seconds, device=name) for seconds, name in enumerate(names, 1)]
    assert predicted(records, [], "*a100*40GB*")[0] == pytest.approx(4.5)
    assert predicted(records, [], "*H200*")[1] == ""
    unknown = Throughput(records, [], "")
    assert unknown.device == "NVIDIA A100-SXM4-40GB"
    assert Throughput(records[:3], [calibration(1)], "").device == ""


def test_device_seconds_of_several_workers_are_those_of_all() -> None:
    plan = a_plan(execution={"workers": 2, "per_worker": {"CPU": 1}})
    trial = the(plan, "finetune")
    assert trial.workers == 2
    throughput = Throughput([finished(6, batch=20, workers=2), finished(60, batch=20)], [], "cpu")
    assert throughput.seconds(trial) == pytest.approx(6e-9 * trial.train_flops)  # of 10 rows a worker, not of 20


def test_calibrations_are_read_back_and_grow(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert told_calibrations(storage) == []
    first, second = calibration(1, hardware="NVIDIA H100 80GB"), calibration(2, hardware="NVIDIA H100 80GB", batch=40)
    path = write_calibration(storage, first)
    assert path == str(tmp_path / "calibrations" / "nvidia-h100-80gb.json")
    write_calibration(storage, second)
    [found] = told_calibrations(storage)
    assert found.measurements == (*first.measurements, *second.measurements)
    again = calibration(9, hardware="NVIDIA H100 80GB")
    write_calibration(storage, again)
    [found] = told_calibrations(storage)
    assert sorted(one.seconds for one in found.measurements) == [2, 9]
    other_torch = again.model_copy(update={"versions": {"torch": "3"}})
    write_calibration(storage, other_torch)
    assert [one.seconds for one in told_calibrations(storage)[0].measurements] == [9]


@pytest.mark.parametrize("content", ["{}", "null", "", "[]", '{"format": 1, "format": 1}'])
def test_file_that_is_no_calibration_is_named_and_nothing_predicted_from_it(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(str(tmp_path))
    write_calibration(storage, calibration(1))
    (tmp_path / "calibrations" / "odd.json").write_text(content)
    assert len(told_calibrations(storage)) == 1
    told = capsys.readouterr().err
    assert told.startswith("not a calibration: ") and "calibrations/odd.json: " in told and "; delete or" in told


@pytest.mark.parametrize(("field", "value"), [("seconds", 1e308), ("seconds", 0.0), ("flops", 1e300), ("batch", 2**64)])
def test_calibration_with_numbers_that_cannot_be_is_none(tmp_path: Path, field: str, value: float) -> None:
    storage = Storage(str(tmp_path))
    plain = calibration(1).model_dump(mode="json")
    plain["measurements"][0][field] = value
    storage.write_bytes(json.dumps(plain).encode(), "calibrations", "odd.json")
    assert told_calibrations(storage) == []
