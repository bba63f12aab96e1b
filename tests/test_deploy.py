"""The files in `deploy/` for other than AWS: KubeRay against its definitions as written down in `kuberay_v1.yaml`, own
machines against Ray's schema."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RAYJOB: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "kuberay_v1.yaml").read_text(encoding="utf-8"))
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
ON_PREM: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "on-prem.yaml").read_text(encoding="utf-8"))
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return found


def test_rayjob_is_what_kuberay_takes() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(RAYJOB, SCHEMA)


@pytest.mark.parametrize("path", ["spec", "spec.rayClusterSpec", "spec.rayClusterSpec.headGroupSpec.template.spec"])
def test_a_misspelled_field_is_found(path: str) -> None:
    changed = copy.deepcopy(RAYJOB)
    place = changed
    for part in path.split("."):
        place = place[part]
    place["enableInTreeAutoscalling"] = True
    with pytest.raises(jsonschema.ValidationError, match="enableInTreeAutoscalling"):
        jsonschema.validate(changed, SCHEMA)


def test_pods_appear_on_demand_and_go_when_idle() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] and RAYJOB["spec"]["shutdownAfterJobFinishes"]
    assert all(group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"] for group in groups())
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == CLUSTER["idle_timeout_minutes"] * 60
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_have_the_resources_of_the_nodes_on_aws() -> None:
    nodes = {name.replace("_", "-"): kind["resources"] for name, kind in CLUSTER["available_node_types"].items()}
    for group in groups():
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        wanted = nodes[group["groupName"]]
        assert (limits["cpu"], limits["nvidia.com/gpu"]) == (str(wanted["CPU"]), str(wanted["GPU"]))
        assert container["resources"]["requests"] == limits


def test_pods_take_connections_from_each_other_and_at_the_port_that_asks_for_the_token_alone() -> None:
    policy = yaml.safe_load((ROOT / "deploy" / "network-policy.yaml").read_text(encoding="utf-8"))
    pods = {"matchLabels": {"ray.io/is-ray-node": "yes"}}  # KubeRay's constant RayNodeLabelKey
    assert policy["spec"]["podSelector"] == pods and policy["spec"]["policyTypes"] == ["Ingress"]
    each_other, dashboard = policy["spec"]["ingress"]
    assert each_other == {"from": [{"podSelector": pods}]}
    assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_the_study_that_is_launched_exists() -> None:
    study = re.search(r"study launch (\S+\.yaml)", RAYJOB["spec"]["entrypoint"])
    assert study and (ROOT / study[1]).is_file()


def test_image_has_the_pinned_versions() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{PINS['ray']}-py" in dockerfile and "--requirement constraints.txt" in dockerfile
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]


def test_own_machines_are_what_ray_takes() -> None:
    from ray.autoscaler._private import util

    filled = copy.deepcopy(ON_PREM)
    filled["provider"].update(head_ip="192.0.2.1", worker_ips=["192.0.2.2", "192.0.2.3"])
    prepared = util.prepare_config(filled)
    util.validate_config(prepared)
    (machines,) = prepared["available_node_types"].values()
    assert (machines["min_workers"], machines["max_workers"]) == (2, 2)  # all of them, all the time
    with pytest.raises(jsonschema.ValidationError, match="head_node_typ"):
        util.validate_config({**prepared, "head_node_typ": "x"})


def test_own_machines_are_set_up_and_guarded_like_nodes_on_aws() -> None:
    for key in ("file_mounts", "rsync_exclude", "head_start_ray_commands"):
        assert ON_PREM[key] == CLUSTER[key]
    assert set(ON_PREM["setup_commands"][1:]) == set(CLUSTER["setup_commands"][1:])
