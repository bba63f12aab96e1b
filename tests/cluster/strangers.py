"""A machine and a stranger on the same network, and what the stranger can do to a Ray on the machine."""

from __future__ import annotations

import ipaddress
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import refuse_shared_namespaces

ROOT = Path(__file__).resolve().parents[2]
HERE, THERE = "10.77.0.1", "10.77.0.2"
TOKEN = "5a" * 32

JOIN = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""

HEALTH = "/grpc.health.v1.Health/Check"


class Machines:
    """Two network namespaces with a cable between them, and a default route: `machine` is at HERE, `stranger` at THERE.
    Processes and files are common to both."""

    def __init__(self) -> None:
        refuse_shared_namespaces()
        idle = ["unshare", "--net", "sleep", "infinity"]
        self.processes = {name: subprocess.Popen(idle) for name in ("machine", "stranger")}
        ours = Path("/proc/self/ns/net").readlink()
        one, other = (process.pid for process in self.all())
        wait_for(lambda: all(Path(f"/proc/{pid}/ns/net").readlink() != ours for pid in (one, other)), 10)
        self._run(f"ip link add eth0 netns {one} type veth peer name eth0 netns {other}".split())
        for name, address, gateway in (("machine", HERE, THERE), ("stranger", THERE, HERE)):
            script = f"ip link set lo up; ip address add {address}/24 dev eth0; ip link set eth0 up"
            self._run(self.inside(name, "bash", "-euc", f"{script}; ip route add default via {gateway}"))

    def all(self) -> list[subprocess.Popen[bytes]]:
        return list(self.processes.values())

    def inside(self, name: str, *command: str | Path) -> list[str]:
        return ["nsenter", f"--target={self.processes[name].pid}", "--net", *map(str, command)]

    def listening(self) -> dict[tuple[str, int], str]:
        """All addresses and ports at which somebody takes connections or packets on `machine`, as the kernel has them,
        with the socket of each."""
        found = {}
        for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
            lines = Path(f"/proc/{self.processes['machine'].pid}/net/{protocol}").read_text().splitlines()[1:]
            for _, local, remote, now, *more in (line.split() for line in lines):
                if now == state and int(remote.partition(":")[2], 16) == 0:
                    place = str(decoded(local.partition(":")[0])), int(local.partition(":")[2], 16)
                    found[place] = f"socket:[{more[5]}]"
        return found

    def close(self) -> None:
        for process in self.all():
            process.kill()
            process.wait()

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True)


def decoded(words: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of the kernel's table: 32-bit words in this machine's order."""
    raw = bytes.fromhex(words)
    count = len(raw) // 4
    address = ipaddress.ip_address(struct.pack(f">{count}I", *struct.unpack(f"={count}I", raw)))
    return getattr(address, "ipv4_mapped", None) or address


@contextmanager
def two_machines() -> Iterator[Machines]:
    """The two for the time of a block."""
    made = Machines()
    try:
        yield made
    finally:
        made.close()


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Of a user who has no token, but for these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **variables}


def asked(machines: Machines, name: str, host: str, ports: list[int]) -> dict[int, Any]:
    """What the ports answer to a process on one of the machines; see `asking`."""
    script = Path(__file__).with_name("asking.py")
    command = machines.inside(name, sys.executable, script, host, ",".join(map(str, ports)))
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    return {int(port): answers for port, answers in json.loads(said).items()}


def joined(machines: Machines, name: str, address: str, home: Path, **variables: str) -> bool:
    """Whether a process on one of the machines runs a task on the Ray at an address."""
    command = machines.inside(name, sys.executable, "-c", JOIN, address)
    variables = {"RAY_gcs_rpc_server_connect_timeout_s": "3", **variables}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd="/", env=environment(home, **variables)
        )
    except subprocess.TimeoutExpired:
        return False
    return "ran 42" in done.stdout


def kind(answers: dict[str, Any]) -> str:
    """What a port does for who has no token: `refuses`, `metrics` that can be read, or anything `else`.

    Ray answers to all who ask whether it is well.
    """
    grpc, http = answers["grpc"], answers["http"]
    if answers["metrics"] and set(http.values()) <= {200, 405}:
        return "metrics"
    well = {name: status for name, status in http.items() if status != 401}
    if http and all("healthz" in name for name in well):
        return "refuses"
    if "UNAUTHENTICATED" in grpc and grpc.keys() <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "OK"}:
        return "refuses" if set(grpc.get("OK", [])) <= {HEALTH} else "else"
    return "else"


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
