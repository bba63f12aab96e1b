"""What a plan takes, in time and money, computed by hand; and what the command prints and refuses."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports.prices import Prices, read_prices
from reports.records import Record
from reports.storage import Storage
from reports.stored import read_records, write_record
from studies import tiny, tiny_study
from study.cli import main
from study.describe import describe_plan, duration
from study.estimate import Estimate, estimate_plan, throughput_here
from study.hardware import Hardware, of_node, this_machine
from study.plan import ExpectedImages, Plan, make_plan
from study.throughput import Calibration, Measurement, Throughput, told_calibrations, write_calibration
from synthetic import plain

TABLE = {
    "currency": "EUR",
    "cpu": {"per_core_hour": 0.05, "date": "2026-01", "source": "own"},
    "devices": [{"pattern": "*H100*", "per_device_hour": 4.0, "date": "2026-01", "source": "own"}],
    "nodes": [
        {"type": "big", "devices": 8, "device": "*H100*", "per_hour": 24.0, "date": "2026-02", "source": "lab"},
        {"type": "small", "devices": 4, "device": "cpu", "per_hour": 0.4, "date": "2026-03-01", "source": "desk"},
    ],
}
PRICES = Prices.model_validate(TABLE)
CPU = Hardware("cpu", 2, "this machine")


def a_plan(finished: tuple[str, ...] = (), **changes: Any) -> Plan:
    study = tiny_study(**changes)
    return make_plan(study, ExpectedImages.of(study), finished)


def calibration(device: str = "cpu", stage: str = "pretrain") -> Calibration:
    """1e9 operations a second."""
    measured = Measurement(
        architecture="r10w0.0625",
        stage=stage,  # type: ignore[arg-type]
        batch=100,
        image_size=8,
        precision="float32",
        steps=5,
        seconds=2.0,
        flops=2e9,
    )
    return Calibration(
        device=device, hardware=device, measured_at=datetime.now(UTC), versions={}, measurements=(measured,)
    )


def estimate(plan: Plan, hardware: Hardware = CPU, devices: int | None = None, **more: Any) -> Estimate:
    known = Throughput(
        [], [calibration("NVIDIA H100 80GB HBM3" if "H100" in hardware.device else "cpu")], hardware.device
    )
    return estimate_plan(plan, [], more.pop("throughput", known), hardware, devices, PRICES, **more)


def test_time_and_money_of_a_plan_are_those_computed_by_hand() -> None:
    plan = a_plan()
    seconds = {trial.spec.stage: trial.train_flops / 1e9 for trial in plan.trials.values()}
    found = estimate(plan)
    assert {plan.trials[id].spec.stage: value for id, value in found.seconds.items()} == pytest.approx(seconds)
    assert found.wall_clock is not None and found.wall_clock.devices == 2
    chain = seconds["pretrain"] + seconds["finetune"] + seconds["distill"]
    rest = seconds["linear"] + seconds["supervised"]  # less than the chain, so they run beside it
    assert found.wall_clock.chain_seconds == found.wall_clock.simulation.makespan == pytest.approx(chain)
    assert found.wall_clock.simulation.busy == pytest.approx((chain + rest) / (2 * chain))
    assert [id.split("-")[0] for id in found.wall_clock.chain] == ["pretrain", "finetune", "distill"]
    assert found.price.per_hour == 0.05 and math.isnan(found.bill())
    text = "\n".join(describe_plan(plan, found))
    assert f"critical {duration(chain)}: {' -> '.join(found.wall_clock.chain)}" in text
    assert "money    0.05 EUR a device-hour (cpu, own, 2026-01)" in text


def test_worker_with_half_a_gpu_costs_half() -> None:
    plan = a_plan(execution={"workers": 1, "per_worker": {"GPU": 0.5}})
    h100 = Hardware("NVIDIA H100 80GB HBM3", 2, "here")
    assert estimate(plan, h100).price.per_hour == 0.5 * 4.0


def test_nodes_are_rented_whole_from_launch_to_end() -> None:
    plan = a_plan(execution={"workers": 1, "per_worker": {"CPU": 2}})
    node = PRICES.node("small")
    hardware = of_node(node, {"CPU": 2})
    found = estimate(plan, hardware, devices=3, node=node)
    assert hardware.slots == 2 and found.nodes() == 2  # two workers of two cores on a node of four
    assert found.price.per_hour == 0.2 and found.wall_clock is not None
    assert found.bill() == pytest.approx(2 * 0.4 * found.wall_clock.simulation.makespan / 3600)
    text = "\n".join(describe_plan(plan, found))
    assert "for 2 small from launch to end" in text and "small, 0.4 EUR an hour, desk, 2026-03-01" in text


def test_worker_pays_its_share_of_a_node_of_which_a_part_stays_idle() -> None:
    execution = {"workers": 1, "per_worker": {"CPU": 3}}
    node = PRICES.node("small")  # one worker of three cores on a node of four
    found = estimate(a_plan(execution=execution), of_node(node, {"CPU": 3}), node=node)
    assert found.price.per_hour == pytest.approx(0.4 * 3 / 4), "as the report charges it; the whole node is in the rent"


def test_gpus_of_a_node_have_the_speed_of_their_own_kind() -> None:
    plan = a_plan(execution={"workers": 4, "per_worker": {"GPU": 1}})
    node = PRICES.node("big")
    found = estimate(plan, of_node(node, {"GPU": 1}), node=node)
    assert found.price.per_hour == 3.0 and found.wall_clock is not None and found.wall_clock.devices == 8
    [pretrain] = [trial for trial in plan.trials.values() if trial.spec.stage == "pretrain"]
    run = found.wall_clock.simulation.runs[pretrain.id]
    assert run.end - run.start == pytest.approx(pretrain.train_flops / 1e9 / 4)
    unknown = estimate(
        plan, of_node(node, {"GPU": 1}), node=node, throughput=Throughput([], [calibration("cpu")], "*H100*")
    )
    assert all(math.isnan(seconds) for seconds in unknown.seconds.values()) and unknown.wall_clock is None
    assert "time of 5 trials is unknown" in "\n".join(describe_plan(plan, unknown))


def test_finished_trials_took_what_their_records_say_and_tell_the_rest() -> None:
    ids = [id for id in a_plan().trials if id.startswith("pretrain")]
    plan = a_plan(tuple(ids))
    content = plain(ids[0], "pretrain", "r10w0.0625")
    content["spec"]["settings"]["optimization"] |= {"global_batch_size": 100}
    content["cost"] |= {"device_seconds": 100.0, "train_flops": 1e9}
    record = Record.model_validate(content)
    found = estimate_plan(plan, [record], Throughput([record], [], "cpu"), CPU, None, PRICES)
    assert found.seconds[ids[0]] == 100
    for id, trial in plan.missing().items():
        assert found.seconds[id] == pytest.approx(100 * trial.train_flops / 1e9)
    assert sum(found.sources.values()) == 4 and all("1 finished trial of" in source for source in found.sources)
    assert not any(id in ids for id in found.wall_clock.simulation.runs)  # type: ignore[union-attr]


def test_devices_fewer_than_workers_are_refused_when_asked_for_and_told_otherwise() -> None:
    plan = a_plan(execution={"workers": 4, "per_worker": {"CPU": 1}})
    with pytest.raises(ValueError, match="has 4 workers, more than 3 devices"):
        estimate(plan, devices=3)
    found = estimate(plan)
    assert found.wall_clock is None and "more than 2 devices" in found.why_none


def test_default_devices_are_what_a_launch_would_use() -> None:
    capped = a_plan(execution={"workers": 1, "per_worker": {"CPU": 1}, "max_workers": 1})
    assert estimate(capped).wall_clock.devices == 1  # type: ignore[union-attr]
    none = estimate(a_plan(), Hardware("cpu", 0, "this machine"))
    assert none.wall_clock is None and "--devices N or --node TYPE" in none.why_none


@pytest.mark.parametrize(
    ("type", "per_worker", "message"),
    [
        ("big", {"CPU": 1.0}, r"--node big has 8 GPUs .* asks for \{'CPU': 1.0\}"),
        ("small", {"GPU": 1.0}, r"--node small has 4 CPUs .* asks for \{'GPU': 1.0\}"),
        ("small", {"CPU": 8.0}, "has 4 CPUs, a worker asks for 8: none has room"),
    ],
)
def test_nodes_that_do_not_fit_the_workers_are_refused(type: str, per_worker: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_node(PRICES.node(type), per_worker)


def test_this_machine_has_room_for_whole_workers() -> None:
    cores = this_machine({"CPU": 1}).slots
    assert cores >= 1 and this_machine({"CPU": 0.5}).slots == 2 * cores and this_machine({"CPU": cores + 1}).slots == 0
    assert this_machine({"CPU": 1}).device == "cpu"


def test_price_table_without_the_node_type_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, prices, storage = tmp_path / "study.yaml", tmp_path / "prices.yaml", tmp_path / "runs"
    study.write_text(yaml.safe_dump(tiny()))
    prices.write_text(yaml.safe_dump(TABLE))
    options = ["--storage", str(storage), "--prices", str(prices), "--node", "medium", "--calibrate"]
    assert main(["plan", str(study), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and not storage.exists()
    assert printed.err == (
        "error: the price table has no node type 'medium'; it has: big, small. Choose one of them, or give a table "
        "with it by --prices FILE.yaml\n"
    )


def test_node_types_have_one_price_each(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump({**TABLE, "nodes": [TABLE["nodes"][0], TABLE["nodes"][0]]}))  # type: ignore[index]
    with pytest.raises(ValueError, match=r"nodes: .*node type big has two prices"):
        read_prices(path)


def test_own_price_table_has_nodes_with_dates_and_sources() -> None:
    table = read_prices()
    assert len(table.nodes) > 5 and all(node.date and node.source for node in table.nodes)
    assert table.node("p4d.24xlarge").devices == 8 and table.node("c5.large").per_hour == 0.085
    assert table.node("p5.48xlarge-block").per_hour / 8 == pytest.approx(table.of("H100").per_device_hour, abs=1e-3)  # type: ignore[union-attr]


def planned(capsys: pytest.CaptureFixture[str], study: Path, *options: str) -> str:
    assert main(["plan", str(study), "--storage", str(study.parent / "runs"), *options]) == 0
    return capsys.readouterr().out


def test_calibration_is_measured_stored_and_used_by_later_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny()))
    before = planned(capsys, study)
    assert "hours    unknown" in before and "launch   wall clock unknown: the time of 5 trials is unknown" in before
    told = planned(capsys, study, "--calibrate")
    [stored] = told_calibrations(Storage(str(tmp_path / "runs")))
    kinds = {(one.stage, one.batch) for one in stored.measurements}
    assert kinds == {("pretrain", 100), ("linear", 20), ("finetune", 20), ("supervised", 20), ("distill", 100)}
    assert stored.device == "cpu" and "torch" in stored.versions and stored.hardware in told
    assert "operations of 1 architecture: as torch counts them" in told
    for one in stored.measurements:
        [line] = [line for line in told.splitlines() if f"r10w0.0625 {one.stage}, {one.batch} rows:" in line]
        assert f"{one.seconds:.3g} s" in line
        [trial] = [trial for trial in a_plan().trials.values() if trial.spec.stage == one.stage]
        steps = 1 if one.stage == "linear" else trial.steps  # linear evaluation is predicted as a whole
        assert one.flops * steps == pytest.approx(trial.train_flops)
    after = planned(capsys, study, "--devices", "3")
    assert "hours    of 5 trials by calibration of the same architecture, stage and batch" in after
    assert "on 3 devices of cpu" in after and "critical " in after


def test_devices_are_at_least_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny()))
    assert main(["plan", str(study), "--storage", str(tmp_path / "runs"), "--devices", "0"]) == 2
    assert "--devices 0: expected 1 to 100,000" in capsys.readouterr().err


def test_calibration_of_gpus_that_are_not_here_is_refused() -> None:
    import torch

    from study.calibrate import calibrate

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"asks for \{'GPU': 1\.0\}, and torch finds no GPU here"):
        calibrate(a_plan(execution={"workers": 1, "per_worker": {"GPU": 1}}), print)


def test_batch_that_is_too_much_for_a_cpu_is_cut_and_said_so() -> None:
    from study.calibrate import calibrate

    stages = tiny()["stages"]
    stages["pretrain"]["micro_batches"] = 50
    data = {**tiny()["data"], "image_size": 32}
    grid = {**tiny()["grid"], "architecture": ["r50"]}
    lines: list[str] = []
    plan = a_plan(data=data, grid=grid, stages={"pretrain": stages["pretrain"]})
    [measured] = calibrate(plan, lines.append).measurements
    [trial] = plan.trials.values()
    one = trial.train_flops / trial.steps / 100 / 4 * 3  # of an image, once the batch is too small for micro-batches
    assert measured.batch < 100 and measured.flops == pytest.approx(measured.batch * one)
    assert f"{measured.batch} rows (cut from 100)" in lines[-1]


def test_launch_expects_what_the_storage_tells(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    plan = a_plan()

    def expected_seconds() -> dict[str, float]:
        records, calibrations = read_records(storage)[0], told_calibrations(storage)
        throughput = throughput_here(plan.study.execution, records, calibrations)
        return {id: throughput.seconds(trial) for id, trial in plan.trials.items()}

    assert all(map(math.isnan, expected_seconds().values()))
    write_calibration(storage, calibration())
    expected = expected_seconds()
    assert expected == pytest.approx({id: trial.train_flops / 1e9 for id, trial in plan.trials.items()})
    content = plain("other", "pretrain", "r10w0.0625")
    content["spec"]["settings"]["optimization"] |= {"global_batch_size": 100}
    content["cost"] |= {"device_seconds": 3.0, "train_flops": 1e9}
    write_record(storage, Record.model_validate(content))
    [pretrain] = [id for id in plan.trials if id.startswith("pretrain")]
    assert expected_seconds()[pretrain] == pytest.approx(3 * expected[pretrain])
