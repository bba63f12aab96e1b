"""Which nodes start for a trial: Ray's own scheduler asked with the shipped `cluster.yaml`, against docs/cluster.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.gang import booked

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| `(\{GPU: .*\})` \| (\d+) \| (.*) \|$", re.MULTILINE)


def documented() -> list[tuple[str, int, dict[str, int]]]:
    """The rows of the table in docs/cluster.md: resources of a worker, workers, nodes by their type."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    return [
        (per_worker, int(workers), {name: int(count) for count, name in re.findall(r"(\d+) `(\w+)`", nodes)})
        for per_worker, workers, nodes in ROW.findall(page)
    ]


def started(trials: list[tuple[int, dict[str, float]]], **state: Any) -> dict[str, int]:
    """Nodes that autoscaler v2 starts, by their type, when these trials (workers, resources of each) wait together."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    shipped = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    config = AutoscalingConfig(shipped, skip_content_hash=True)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            gang_resource_requests=[
                GangResourceRequest(requests=[ResourceRequestUtil.make(booked(per_worker))] * workers)
                for workers, per_worker in trials
            ],
            **state,
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize(("per_worker", "workers", "nodes"), documented())
def test_trials_get_the_nodes_that_the_documentation_says(per_worker: str, workers: int, nodes: dict[str, int]) -> None:
    assert started([(workers, yaml.safe_load(per_worker))]) == nodes


def test_the_documentation_shows_each_kind_of_gpu_with_and_without_its_name() -> None:
    shown = {(workers, *sorted(yaml.safe_load(per_worker))) for per_worker, workers, _ in documented()}
    assert shown >= {(1, "CPU", "GPU"), (8, "CPU", "GPU"), (8, "CPU", "GPU", "L4"), (16, "A100", "CPU", "GPU")}


@pytest.mark.parametrize("workers", range(1, 17))
def test_a_named_kind_of_gpu_is_the_only_one(workers: int) -> None:
    assert started([(workers, {"GPU": 1, "CPU": 8, "L4": 1})]).keys() <= {"one_gpu_spot", "one_gpu"}
    assert started([(workers, {"GPU": 1, "CPU": 8, "A100": 1})]) == {"eight_gpus": -(-workers // 8)}


def test_trials_of_one_worker_that_wait_together_get_one_node_each() -> None:
    assert started([(1, {"GPU": 1, "CPU": 8})] * 8) == {"one_gpu_spot": 8}


def test_on_demand_nodes_stand_in_for_spot_ones_that_cannot_be_had() -> None:
    failed = {"recoverable_resource_availabilities": {"one_gpu_spot": 0.0}}
    assert started([(1, {"GPU": 1, "CPU": 8})], **failed) == {"one_gpu": 1}
    assert started([(2, {"GPU": 1, "CPU": 8, "L4": 1})], **failed) == {"one_gpu": 2}


def test_more_workers_than_there_are_gpus_of_that_kind_start_nothing() -> None:
    assert started([(17, {"GPU": 1, "CPU": 8, "L4": 1})]) == {}


def test_nodes_start_with_the_resources_of_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoscaler hands them to `ray start` in this variable, which knows no other resource of these names."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 96, "GPU": 8, "A100": 8}')
    node = ResourceAndLabelSpec().resolve(is_head=False, node_ip_address="127.0.0.1").to_resource_dict()
    assert {name: node.get(name) for name in ("CPU", "GPU", "A100")} == {"CPU": 96, "GPU": 8, "A100": 8}
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES")
    assert not {"A100", "L4"} & ResourceAndLabelSpec().resolve(is_head=False).to_resource_dict().keys()
