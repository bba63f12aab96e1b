"""The mock cloud: each instance that the mock EC2 API lists as running is a machine, with its address."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hosts import Network

LOOK_SECONDS = 0.5


class Cloud:
    """Boots and unplugs machines as instances come and go, in a thread, until it is closed.

    `booted` lists the node types of all machines that ever ran. An error in the thread is raised by `check`.
    """

    def __init__(self, network: Network, ec2: Any, profile: Callable[[str], str]) -> None:
        self.network, self.ec2, self.profile = network, ec2, profile
        self.running: dict[str, str] = {}
        self.booted: list[str] = []
        self.error: BaseException | None = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def check(self) -> None:
        if self.error:
            raise AssertionError("the mock cloud broke") from self.error

    def close(self) -> None:
        self.closing.set()
        self.thread.join()

    def _follow(self) -> None:
        try:
            while not self.closing.wait(LOOK_SECONDS):
                instances = _with_profiles(self.ec2.describe_instances()["Reservations"])
                up = {id for id, found in instances.items() if found["State"]["Name"] in ("pending", "running")}
                for id in sorted(up - self.running.keys()):
                    if instances[id].keys() >= {"IamInstanceProfile", "Tags"}:  # moto adds them a moment later
                        self._boot(instances[id])
                for id in self.running.keys() - up:
                    self.network.stop(id)
                    del self.running[id]
                self._tell_session_manager()
        except BaseException as error:
            self.error = error
            self.network.stop_all()  # so that a command that waits for a machine fails now

    def _boot(self, instance: dict[str, Any]) -> None:
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        keys = self.ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)["KeyPairs"]
        node_type, address = tags["ray-user-node-type"], instance["PrivateIpAddress"]
        profile = self.profile(instance["IamInstanceProfile"]["Arn"].rpartition("-")[2])
        self.network.start(instance["InstanceId"], address, "ubuntu", keys[0]["PublicKey"], profile)
        self.running[instance["InstanceId"]] = node_type
        self.booted.append(node_type)
        print(f"EC2: {instance['InstanceId']} is up: {node_type}, {instance['InstanceType']}, {address}")

    def _tell_session_manager(self) -> None:
        hosts = self.network.hosts
        lines = "".join(f"{id} {hosts[id].address}\n" for id in self.running)
        hosts["laptop"].path("/run/instances").write_text(lines)


def _with_profiles(reservations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All instances by id. Of several that are asked for at once, moto gives the profile to the first one only."""
    instances = {}
    for entry in reservations:
        profiles = [found["IamInstanceProfile"] for found in entry["Instances"] if "IamInstanceProfile" in found]
        for found in entry["Instances"]:
            instances[found["InstanceId"]] = found | ({"IamInstanceProfile": profiles[0]} if profiles else {})
    return instances
