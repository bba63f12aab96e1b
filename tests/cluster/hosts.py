"""Machines for tests: each is a set of Linux namespaces with a private copy of the file system and an SSH server.

They live in the namespaces that `make test-cluster` starts the tests in, and end with them: when the first process in
there ends, however it ends, the kernel kills all others, and their networks and mounts are gone with them. There is no
clean-up that could be forgotten.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BOOT_SECONDS = 30


@dataclass
class Host:
    """A running machine: `process` is its first one as seen from outside, under the id `pid`."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    pid: int

    def path(self, path: str) -> Path:
        """A file of the machine, as seen from outside."""
        return Path(f"/proc/{self.pid}/root{path}")


@dataclass
class Network:
    """A bridge with machines on it, which the outside reaches, and which reach the outside at `gateway`."""

    gateway: str
    prefix: int
    environment: Path
    hosts: dict[str, Host] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        refuse_shared_namespaces()
        # With an address of its own: otherwise it changes with its ports, and machines do not find it for a minute.
        _run("ip link set lo up; ip link add bridge address 02:00:00:00:00:01 type bridge; ip link set bridge up")
        _run(f"ip address add {self.gateway}/{self.prefix} dev bridge")

    def start(self, name: str, address: str, login: str, authorized: str, profile: str) -> Host:
        """Boot a machine and wait until its SSH server runs."""
        variables = {
            "PATH": os.environ["PATH"],
            "NAME": name,
            "ADDRESS": f"{address}/{self.prefix}",
            "GATEWAY": self.gateway,
            "LOGIN": login,
            "AUTHORIZED": authorized,
            "PROFILE": profile,
            "ENVIRONMENT": str(self.environment),
        }
        namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
        process = subprocess.Popen(
            ["unshare", *namespaces, "bash", str(HERE / "host.sh")], env=variables, stdin=subprocess.DEVNULL
        )
        host = self.hosts[name] = Host(name, address, process, _first_child(process))
        self.made += 1
        outside = f"host{self.made}"
        _run(f"ip link add {outside} type veth peer name eth0 netns {host.pid}; ip link set {outside} master bridge up")
        _wait_for(lambda: host.path("/run/booted").exists(), process, f"{name} does not boot")
        return host

    def stop(self, name: str) -> None:
        """Pull the plug."""
        host = self.hosts.pop(name)
        host.process.kill()  # and, by --kill-child, the machine's first process, and so all others
        host.process.wait()

    def stop_all(self) -> None:
        for name in list(self.hosts):
            self.stop(name)

    def close(self) -> None:
        """Stop all machines and take the bridge down, for another network in the same namespaces."""
        self.stop_all()
        _run("ip link delete bridge")

    def run(self, name: str, command: str, folder: Path, seconds: float) -> str:
        """Run a command in a login shell on a machine, as somebody sitting at it; returns what it prints.

        Raises AssertionError where it fails, with what it printed.
        """
        entered = ["nsenter", f"--target={self.hosts[name].pid}", "--all", f"--wdns={folder}"]
        variables = {"PATH": os.environ["PATH"], "HOME": "/root", "USER": "root", "TERM": "dumb", "LANG": "C.UTF-8"}
        started, lines = time.monotonic(), []
        print(f"{name} $ {command}")
        with subprocess.Popen(
            ["timeout", "--kill-after=5", str(seconds), *entered, "bash", "--login", "-c", command],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                print(f"  {line}", end="", flush=True)
                lines.append(line)
        print(f"  [{time.monotonic() - started:.0f} s, exit code {process.returncode}]", flush=True)
        assert process.returncode == 0, f"{command!r} on {name} ended with exit code {process.returncode}"
        return "".join(lines)


def refuse_shared_namespaces() -> None:
    """Refuse to go on where a bridge, or a `ray stop`, would reach other processes than the test's own."""
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    others = [link["ifname"] for link in links if link["ifname"] != "lo"]
    if others or os.environ.get("LABELSCALE_NAMESPACES") != "private":
        pytest.fail("these tests need namespaces of their own: run them as root by `make test-cluster`", pytrace=False)


def _first_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _wait_for(lambda: bool(children.read_text().split()), process, "unshare starts nothing")
    return int(children.read_text().split()[0])


def _wait_for(condition: object, process: subprocess.Popen[bytes], otherwise: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + BOOT_SECONDS
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def _run(command: str) -> None:
    subprocess.run(["bash", "-euc", command], check=True)
