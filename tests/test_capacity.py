"""What a cluster has room for, from its YAML file and the nodes it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import tiny_study
from study.capacity import NodeType, NodeTypes, node_types, parse_node_types, worker_slots, workers_that_fit
from study.hardware import with_worker
from study.load import load_study
from study.plan import ExpectedImages, make_plan

ONE = NodeType("one_gpu_spot", {"CPU": 8.0, "GPU": 1.0}, 4)
NONE = NodeTypes((), 2)
EIGHT = NodeType("eight_gpus", {"CPU": 96.0, "GPU": 8.0}, 2)


ON_ONE: dict[str, float] = {"CPU": 8.0, "GPU": 1.0, "node:10.0.0.7": 1.0}  # a living node of that type
ON_HEAD: dict[str, float] = {"CPU": 4.0, "GPU": 3.0, "node:__internal_head__": 1.0}


def slots(
    nodes: list[dict[str, float]], types: NodeTypes | None, may_grow: bool = True, workers: int = 1, **execution: Any
) -> int:
    per_worker = {"GPU": 1.0, "CPU": 1.0}
    study = tiny_study(execution={"workers": workers, "per_worker": per_worker, **execution})
    return worker_slots(make_plan(study, ExpectedImages(200, 10)), study.execution, nodes, types, may_grow=may_grow)


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
    assert [(one.name, one.max_nodes) for one in types.types] == [("one", 4), ("many", 6), ("any", 6)]
    assert types.types[0].resources == {"CPU": 8.0, "GPU": 1.0} and types.max_nodes == 6


def test_node_types_are_those_of_the_autoscaler_that_runs_on_this_machine(tmp_path: Path) -> None:
    settings = tmp_path / "ray_bootstrap_config.yaml"
    settings.write_text(yaml.safe_dump({"available_node_types": {"one": {"resources": {"GPU": 1}, "max_workers": 1}}}))
    for pid, command in {"7": "sleep 60", "8": f"python monitor.py --autoscaling-config={settings}"}.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    said: list[str] = []
    assert node_types(said.append, tmp_path) == NodeTypes((NodeType("one", {"GPU": 1.0}, 1),), 2)
    assert node_types(said.append, tmp_path / "elsewhere") == NONE and said == []


def test_shipped_cluster_has_room_for_as_many_workers_as_sixteen_nodes_hold() -> None:
    types = parse_node_types(yaml.safe_load(Path("cluster.yaml").read_text()))
    assert slots([], types, per_worker={"GPU": 1.0, "CPU": 8.0}) == 8 * 8 + 8 * 1


def test_cluster_may_grow_to_the_largest_of_its_node_types_unless_the_study_caps_it() -> None:
    assert slots([], NodeTypes((ONE, EIGHT), 100)) == 4 + 2 * 8
    assert slots([], NodeTypes((ONE, EIGHT), 3)) == 2 * 8 + 1
    assert slots([], NodeTypes((ONE, EIGHT), 100), max_workers=5) == 5
    assert slots([ON_HEAD, ON_ONE, ON_ONE], NodeTypes((ONE,), 4)) == 3 + 4, "living nodes are of the type"


def test_cluster_whose_growth_is_not_known_is_taken_at_its_studys_word() -> None:
    for types in (None, NONE):
        assert slots([], types, max_workers=5) == 5
        assert slots([ON_ONE, ON_ONE], types) == 2
    assert slots([ON_ONE] * 3, NONE, may_grow=False, max_workers=5) == 3


def test_what_no_node_type_can_ever_run_is_refused_with_the_node_types() -> None:
    with pytest.raises(ValueError, match=r"asks for 10 workers .* can have 4 at most") as refused:
        slots([ON_ONE], NodeTypes((ONE,), 9), workers=10)
    assert "start 9 nodes" in str(refused.value) and "one_gpu_spot ({CPU: 8, GPU: 1}, at most 4)" in str(refused.value)
    with pytest.raises(ValueError, match="can have 0 at most"):
        slots([], NodeTypes((ONE,), 9), per_worker={"GPU": 1.0, "CPU": 9.0})
    with pytest.raises(ValueError, match=r"execution.max_workers is 2; raise it"):
        slots([], NodeTypes((ONE,), 9), workers=4, max_workers=2)
    with pytest.raises(ValueError, match=r"there is room for 1"):
        slots([ON_ONE], NONE, may_grow=False, workers=2)


def test_head_too_small_to_drive_a_trial_of_several_workers_is_refused() -> None:
    small, big = ({**ON_HEAD, "memory": gibibytes * 2**30} for gibibytes in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"needs 1.5 GiB on the cluster's head, .* there is 1 GiB"):
        slots([small, ON_ONE], NONE, workers=2)
    assert slots([big, ON_ONE], NONE, workers=2) == 3 + 1
    assert slots([small, ON_ONE], NONE, workers=1) == 3 + 1, "one worker needs nothing on the head"


@pytest.mark.parametrize(
    ("nodes", "worker"),
    [
        ([{"CPU": 2.0, "GPU": 0.0}], {"CPU": 1.0}),
        ([{"CPU": 16.0, "GPU": 2.0}], {"GPU": 1.0, "CPU": 8.0}),
        ([{"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 96.0, "GPU": 8.0}], {"GPU": 1.0, "CPU": 8.0}),
        ([{"CPU": 2.0, "GPU": 4.0}], {"GPU": 1.0, "CPU": 1.0}),
    ],
)
def test_worker_is_a_gpu_with_its_share_of_the_cores_unless_its_study_says_otherwise(
    nodes: list[dict[str, float]], worker: dict[str, float]
) -> None:
    assert with_worker(tiny_study(execution={}), nodes).execution.per_worker == worker
    told = tiny_study(execution={"per_worker": {"CPU": 3}})
    assert with_worker(told, nodes).execution.per_worker == {"CPU": 3.0}


def test_study_of_the_documented_launch_trains_on_the_gpus_of_the_shipped_cluster() -> None:
    [preset] = set(re.findall(r"study launch (\S+)", Path("docs/cluster.md").read_text(encoding="utf-8")))
    types = parse_node_types(yaml.safe_load(Path("cluster.yaml").read_text()))
    study = with_worker(load_study(preset, []), [one.resources for one in types.types])
    assert study.execution.per_worker == {"GPU": 1.0, "CPU": 8.0}
