"""The documented way from `cluster.yaml` to the report, on machines that are namespaces and a cloud that is a mock.

The commands are those of docs/cluster.md, in its order; what is replaced, and why, is listed in `replaced.py`.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import replaced
from cloud import Cloud
from hosts import Network

from deploy import account

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = Path(sys.prefix)
GATEWAY, PREFIX, LAPTOP = "172.31.0.1", 16, "172.31.255.2"  # of EC2's default network, which the mock has too
ENDPOINT = f"http://{GATEWAY}:5000"
COMMAND_SECONDS = 600


def documented_commands() -> list[str]:
    """The commands in docs/cluster.md's section "A study from start to end", in their order."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    section = page.partition("## A study from start to end")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@dataclass
class World:
    """The laptop on the network, the mock cloud, and what the mock knows."""

    network: Network
    cloud: Cloud
    session: Any
    calls: Path

    def on_laptop(self, command: str) -> str:
        for documented, here in replaced.IN_COMMANDS.items():
            command = command.replace(documented, here)
        try:
            return self.network.run("laptop", command, ROOT, COMMAND_SECONDS)
        finally:
            self.cloud.check()

    def objects(self) -> dict[str, bytes]:
        """All files of the storage, by name."""
        bucket = self.session.resource("s3").Bucket("my-studies")
        return {
            item.key.removeprefix("runs/"): item.get()["Body"].read() for item in bucket.objects.filter(Prefix="runs/")
        }

    def instances(self) -> list[str]:
        """Node types of the instances that EC2 has."""
        listed = self.session.client("ec2").describe_instances()["Reservations"]
        found = [entry for reservation in listed for entry in reservation["Instances"]]
        up = [entry for entry in found if entry["State"]["Name"] not in ("shutting-down", "terminated")]
        return sorted(tag["Value"] for entry in up for tag in entry["Tags"] if tag["Key"] == "ray-user-node-type")

    def actions_of(self, key: str) -> set[str]:
        """The actions, but for those of S3, that an access key asked for."""
        return {line.split()[1] for line in self.calls.read_text().splitlines() if line.split()[0] == key}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A network with a laptop that has the project, and a mock cloud without any instance."""
    with contextlib.ExitStack() as stack:
        network = Network(GATEWAY, PREFIX, ENVIRONMENT)
        stack.callback(network.close)
        calls, log = tmp_path / "calls", stack.enter_context((tmp_path / "aws.log").open("w"))
        server = subprocess.Popen(
            [sys.executable, str(HERE / "mock_aws.py"), "5000", str(calls)], stdout=log, stderr=log
        )
        stack.callback(server.wait)
        stack.callback(server.kill)
        session = boto3.Session("test", "mock", region_name="us-west-2")
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("AWS_ENDPOINT_URL", ENDPOINT)
        wait_until(lambda: server.poll() is None and answers(session), 60, "the mock of AWS does not answer")
        profile = replaced.laptop_profile(ENDPOINT, str(ENVIRONMENT))
        laptop = network.start("laptop", LAPTOP, "root", "", profile)
        command = laptop.path(f"{replaced.COMMANDS}/aws")
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {ENVIRONMENT}/bin/python {HERE}/session_manager.py "$@"\n')
        command.chmod(0o755)
        replace_in_cluster_yaml(laptop.path(str(ROOT / "cluster.yaml")))
        cloud = Cloud(network, session.client("ec2"), lambda role: replaced.node_profile(ENDPOINT, role))
        stack.callback(cloud.close)
        yield World(network, cloud, session, calls)


def answers(session: Any) -> bool:
    try:
        session.client("ec2").describe_regions()
    except Exception:  # of any kind, while the server starts
        return False
    return True


def replace_in_cluster_yaml(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for shipped, here in replaced.IN_CLUSTER_YAML.items():
        assert text.count(shipped) == 1, f"cluster.yaml does not say {shipped!r}: what is replaced has changed"
        text = text.replace(shipped, here)
    file.write_text(text, encoding="utf-8")


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)


def policy_actions(name: str) -> set[str]:
    statements = json.loads((account.POLICIES / f"{name}.json").read_text(encoding="utf-8"))["Statement"]
    listed = [statement["Action"] for statement in statements]
    return {action for item in listed for action in ([item] if isinstance(item, str) else item)}


def check_the_head(world: World) -> None:
    """It alone runs, and lets nobody in from outside, nor from inside without the token."""
    assert world.instances() == ["head"]
    (head,) = (host for name, host in world.network.hosts.items() if name != "laptop")
    with pytest.raises(AssertionError):
        world.on_laptop(f"timeout 5 bash -c '< /dev/tcp/{head.address}/8265'")
    ask = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8265/api/jobs/')"
    refused = world.network.run(head.name, f'{ENVIRONMENT}/bin/python -c "{ask}" 2>&1 || true', Path("/"), 60)
    assert "HTTP Error 401" in refused


def check_the_results(world: World, report: str) -> None:
    """Every trial has a record, the pretraining's of two workers, that says at what its node is rented; the report
    names the study and is complete."""
    stored = world.objects()
    records = [json.loads(content) for name, content in stored.items() if name.startswith("records/")]
    workers = {record["spec"]["stage"]: record["resources"]["workers"] for record in records}
    assert workers == {"pretrain": 2, "linear": 1}
    assert {record["resources"]["node_type"] for record in records} == {"g6.2xlarge-spot"}
    assert not [name for name in stored if name.endswith("failure.json")]
    page = world.network.hosts["laptop"].path(report).read_text(encoding="utf-8")
    assert all(record["id"] in page for record in records)
    assert "<h1>cluster</h1>" in page and f"{len(records)} of {len(records)} planned trials finished" in page
    assert "Nothing failed, nothing is missing." in page


@pytest.mark.timeout(1500)  # of which most is waited for, unless the machine is busy
def test_documented_commands_lead_from_cluster_yaml_to_the_report(world: World) -> None:
    for command in documented_commands():
        output = world.on_laptop(command)
        if "deploy.account" in command:
            world.calls.write_text("")  # an administrator's, until here
        elif command.startswith("ray up"):
            check_the_head(world)
        elif "study launch" in command:
            assert sorted(world.cloud.booted) == ["head", "one_gpu_spot", "one_gpu_spot"]
        elif "study status" in command:
            assert re.search(r"pretrain +1 +0 +0 +0", output) and re.search(r"linear +1 +0 +0 +0", output)
        elif "ray status" in command:
            assert re.search(r"Active:\s+1 head", output)
            wait_until(lambda: world.instances() == ["head"], 120, "idle workers are not given back")
        elif command.startswith("ray down"):
            assert world.instances() == []
    check_the_results(world, str(ROOT / "report.html"))
    for key in ("laptop", "head"):
        assert world.actions_of(key) and world.actions_of(key) <= policy_actions(key)
    assert not world.actions_of("worker")
