"""A study on a cluster that grows with it, loses a node, and shrinks again: Ray's real autoscaler."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import growing_cluster
import pytest
import yaml

from reports.storage import Storage
from reports.stored import read_failures, read_records
from studies import tiny

pytestmark = pytest.mark.timeout(280)


def observe(folder: Path, shards: str, loss: str, epochs: int = 120, **changes: Any) -> tuple[dict[str, Any], Storage]:
    """Launch a study on a cluster of its own; what was seen, and its storage."""
    if reason := growing_cluster.missing():
        pytest.skip(reason)
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "linear")}
    stages["pretrain"]["optimization"]["epochs"] = epochs
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    execution = {
        "workers": 1,
        "per_worker": {"CPU": 1, "trainer": 1},
        "checkpoint_seconds": 0.5,
        "min_effective_rank": 0,
        **changes.pop("execution", {}),
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tiny(stages=stages, data=data, execution=execution, **changes)))
    arguments = growing_cluster.command(str(file), str(folder / "runs"), "--loss", loss)
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=260, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])  # shown if the test fails, and with -s
    return json.loads(done.stdout.splitlines()[-1]), Storage(str(folder / "runs"))


def in_order(expected: list[str], seen: dict[str, Any]) -> bool:
    """Whether these events were seen in this order, whatever else was seen between them."""
    events = iter([event for _, event in seen["events"]])
    return all(one in events for one in expected)


TWO_TRIALS_AT_ONCE = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1]}


def test_study_grows_the_cluster_survives_the_death_of_a_node_and_gives_the_nodes_back(
    shards: str, tmp_path: Path
) -> None:
    """The trial that lost its node ends last: until then it has another one, and the idle one is given back."""
    seen, storage = observe(tmp_path, shards, "kill", grid=TWO_TRIALS_AT_ONCE)
    assert seen["exit"] == 0, seen["said"]
    until = ["0 nodes", "2 nodes", "loss", "1 nodes", "2 nodes", "1 nodes"]
    assert in_order([*until, "launch over"], seen) and in_order([*until, "0 nodes"], seen), seen["events"]
    records, problems = read_records(storage)
    assert len(records) == 4 and not problems and read_failures(storage) == ([], [])
    sessions = {record.id: record.cost.sessions for record in records if record.spec.stage == "pretrain"}
    assert sessions.pop(seen["lost"][0]) == 2, "the trial did not go on from its checkpoint"
    assert set(sessions.values()) == {1}, "the other trial was disturbed"
    assert {record.resources.node_type for record in records if record.resources} == {"small-spot"}
    code, told = seen["refused"]  # what five workers were asked for, where there can be two
    assert code == 2 and "trainer ({CPU: 1, object_store_memory: 1e+08, trainer: 1}, at most 2)" in told, told


def test_launch_on_another_head_goes_on_where_the_first_was_killed(shards: str, tmp_path: Path) -> None:
    seen, storage = observe(tmp_path, shards, "head", grid=TWO_TRIALS_AT_ONCE)
    assert seen["exit"] == 0, seen["said"]
    assert in_order(["2 nodes", "loss", "another head", "2 nodes", "0 nodes"], seen), seen["events"]
    records, problems = read_records(storage)
    assert len(records) == 4 and not problems and read_failures(storage) == ([], [])
    assert {record.cost.sessions for record in records if record.spec.stage == "pretrain"} == {2}


def test_workers_that_are_told_of_their_end_save_at_once_and_go_on_elsewhere(shards: str, tmp_path: Path) -> None:
    """Two workers on two nodes; nothing makes a checkpoint but the notice, which the cloud's metadata service has for
    one of them."""
    execution = {"workers": 2, "checkpoint_seconds": 1000}
    seen, storage = observe(tmp_path, shards, "drain", epochs=240, execution=execution)
    assert seen["exit"] == 0, seen["said"]
    assert in_order(["2 nodes", "loss", "0 nodes"], seen), seen["events"]
    records, problems = read_records(storage)
    assert not problems and read_failures(storage) == ([], [])
    [pretraining] = [record for record in records if record.spec.stage == "pretrain"]
    assert pretraining.id == seen["lost"][0] and pretraining.cost.sessions == 2
    assert pretraining.resources is not None and pretraining.resources.workers == 2
    assert pretraining.resources.node_type == "small-spot"
