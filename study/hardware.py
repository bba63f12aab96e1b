"""What a plan is to run on: this machine, or nodes of a type from the price table. Needs neither torch nor Ray."""

from __future__ import annotations

import functools
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reports.prices import NodePrice
from study.config import Study


@dataclass(frozen=True)
class Hardware:
    """Devices of one kind: `device` is their name as records have it ("cpu", or a GPU's) or a shell pattern of names.

    `slots` is how many workers of the study have room, `where` says of what machine, for people.
    """

    device: str
    slots: int
    where: str


def with_worker(study: Study, nodes: Iterable[Mapping[str, float]]) -> Study:
    """The study, with what a worker asks for where it does not say: a GPU with its share of the cores, or one core
    where no node has GPUs. `nodes` are the Ray resources of each."""
    if study.execution.per_worker:
        return study
    shares = [node.get("CPU", 0.0) / node["GPU"] for node in nodes if node.get("GPU")]
    worker = {"GPU": 1.0, "CPU": float(max(1, math.floor(min(shares))))} if shares else {"CPU": 1.0}
    return study.model_copy(update={"execution": study.execution.model_copy(update={"per_worker": worker})})


def resources(node: NodePrice | None) -> Iterator[dict[str, float]]:
    """Ray resources of a node of the price table, or of this machine, which is asked only when they are wanted."""
    if node is None:
        yield {"CPU": float(os.cpu_count() or 1), "GPU": float(len(gpus()))}
    else:
        yield {"CPU" if node.device == "cpu" else "GPU": float(node.devices)}


def this_machine(per_worker: Mapping[str, float]) -> Hardware:
    """This machine for workers that ask for `per_worker`; of its GPUs if they ask for any, which it may lack."""
    if "GPU" not in per_worker:
        return Hardware("cpu", _room(os.cpu_count() or 1, per_worker, "CPU"), "this machine")
    names = gpus()
    return Hardware(names[0] if names else "", _room(len(names), per_worker, "GPU"), "this machine")


def of_node(node: NodePrice, per_worker: Mapping[str, float]) -> Hardware:
    """One node of a type of the price table.

    Raises:
        ValueError: a node without the GPUs that a worker asks for, one whose GPUs nobody asks for, or too small a node.
    """
    wanted = "GPU" if "GPU" in per_worker else "CPU"
    has = "CPU" if node.device == "cpu" else "GPU"
    if wanted != has:
        raise ValueError(
            f"--node {node.type} has {node.devices} {has}s ({node.device}), but a worker of this study asks for "
            f"{dict(per_worker)}: choose another node type, or set execution.per_worker"
        )
    slots = _room(node.devices, per_worker, wanted)
    if slots < 1:
        raise ValueError(
            f"--node {node.type} has {node.devices} {has}s, a worker asks for {per_worker[wanted]:g}: none has room"
        )
    return Hardware(node.device, slots, f"one {node.type}")


@functools.cache
def gpus() -> tuple[str, ...]:
    """Names of this machine's NVIDIA GPUs, as torch reports them; none without a driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return tuple(line.strip() for line in lines if line.strip())


def processor() -> str:
    """Name of this machine's processor and how many cores it has, such as "Intel Xeon 8488C, 2 cores"."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _room(amount: float, per_worker: Mapping[str, float], name: str) -> int:
    return how_often(amount, per_worker[name]) if name in per_worker else int(amount)


def how_often(amount: float, each: float) -> int:
    """How often an amount of a resource is to be had."""
    return int(amount / each + 1e-9)  # 0.3 / 0.1 is less than 3
