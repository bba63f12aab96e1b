"""What a cluster has room for, from its YAML file and the nodes it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import tiny_study
from study.capacity import NodeType, node_types, parse_node_types, worker_slots, workers_that_fit
from study.plan import ExpectedImages, Plan, make_plan

ONE = NodeType("one_gpu_spot", {"CPU": 8.0, "GPU": 1.0}, 4)
EIGHT = NodeType("eight_gpus", {"CPU": 96.0, "GPU": 8.0}, 2)


def plan(workers: int = 1, **execution: Any) -> Plan:
    per_worker = {"GPU": 1.0, "CPU": 8.0}
    study = tiny_study(execution={"workers": workers, "per_worker": per_worker, **execution})
    return make_plan(study, ExpectedImages(200, 10))


@pytest.mark.parametrize(
    ("resources", "per_worker", "workers"),
    [
        ({"CPU": 8.0, "GPU": 1.0}, {"GPU": 1.0}, 1),
        ({"CPU": 8.0, "GPU": 1.0}, {"GPU": 0.5, "CPU": 1.0}, 2),
        ({"CPU": 96.0, "GPU": 8.0}, {"GPU": 1.0, "CPU": 16.0}, 6),
        ({"CPU": 0.3}, {"CPU": 0.1}, 3),
        ({"CPU": 8.0}, {"GPU": 1.0}, 0),
    ],
)
def test_workers_that_fit_on_a_node(resources: dict[str, float], per_worker: dict[str, float], workers: int) -> None:
    assert workers_that_fit(resources, per_worker) == workers


def test_node_types_are_those_of_the_cluster_file_without_its_head() -> None:
    types = parse_node_types(
        {
            "max_workers": 6,
            "head_node_type": "head",
            "available_node_types": {
                "head": {"resources": {"CPU": 0}},
                "one": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
                "many": {"resources": {"CPU": 4}, "max_workers": 100},
                "any": {"resources": {"CPU": 2}},
                "off": {"resources": {"CPU": 2}, "max_workers": 0},
            },
        }
    )
    assert [(one.name, one.max_nodes) for one in types] == [("one", 4), ("many", 6), ("any", 6)]
    assert types[0].resources == {"CPU": 8.0, "GPU": 1.0}


def test_node_types_are_those_of_the_autoscaler_that_runs_on_this_machine(tmp_path: Path) -> None:
    settings = tmp_path / "ray_bootstrap_config.yaml"
    settings.write_text(yaml.safe_dump({"available_node_types": {"one": {"resources": {"GPU": 1}, "max_workers": 1}}}))
    for pid, command in {"7": "sleep 60", "8": f"python monitor.py --autoscaling-config={settings}"}.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    said: list[str] = []
    assert node_types(said.append, tmp_path) == [NodeType("one", {"GPU": 1.0}, 1)]
    assert node_types(said.append, tmp_path / "elsewhere") == [] and said == []


def test_shipped_cluster_has_room_for_the_widest_trials() -> None:
    types = parse_node_types(yaml.safe_load(Path("cluster.yaml").read_text()))
    assert worker_slots(plan(workers=20), 0, types, may_grow=True) >= 20


def test_cluster_may_grow_to_all_its_node_types_unless_the_study_caps_it() -> None:
    assert worker_slots(plan(), 0, [ONE, EIGHT], may_grow=True) == 4 + 2 * 8
    assert worker_slots(plan(), 3, [ONE], may_grow=True) == 3 + 4
    assert worker_slots(plan(max_workers=5), 0, [ONE, EIGHT], may_grow=True) == 5
    assert worker_slots(plan(max_workers=5), 0, [], may_grow=True) == 5, "its nodes are not known"
    assert worker_slots(plan(max_workers=5), 3, [], may_grow=False) == 3


def test_what_no_node_type_can_ever_run_is_refused_with_the_node_types() -> None:
    with pytest.raises(ValueError, match=r"asks for 10 workers .* can have 4 at most") as refused:
        worker_slots(plan(workers=10), 0, [ONE], may_grow=True)
    assert "one_gpu_spot ({CPU: 8, GPU: 1}, at most 4)" in str(refused.value)
    huge = plan(per_worker={"GPU": 2.0})
    with pytest.raises(ValueError, match="can have 0 at most"):
        worker_slots(huge, 0, [ONE], may_grow=True)
    with pytest.raises(ValueError, match=r"execution.max_workers is 2; raise it"):
        worker_slots(plan(workers=4, max_workers=2), 0, [ONE], may_grow=True)
    with pytest.raises(ValueError, match=r"there is room for 1"):
        worker_slots(plan(workers=2), 1, [], may_grow=False)
