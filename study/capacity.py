"""How many workers a cluster has room for, now and at most: what can never run is refused, not waited for; and at what
price its nodes are rented."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.plain_scalar import shown
from reports.plain_yaml import read_yaml_file
from study.cluster import ray_nodes
from study.config import Execution
from study.hardware import how_often
from study.kubernetes import autoscaling_config
from study.plan import Plan

CONFIG_ARGUMENT = "--autoscaling-config="

PRICE_LABEL = "labelscale/price"
"""By this label a cluster's nodes tell the entry of the price table at which they are rented; see `cluster.yaml`."""

HEAD = "node:__internal_head__"
"""Ray's own resource of a head node."""

MOST_AMOUNT = 10**18  # of a resource, such as bytes of memory

DRIVER_BYTES = 1.5 * 2**30
"""Of the head's memory, what driving one trial of several workers books: its process, Ray Train's controller and three
actors beside it, which had 1.26 GB together in Ray 2.60. Ray starts no more than fit, the others wait."""


@dataclass(frozen=True)
class NodeType:
    """Nodes that the autoscaler may start: Ray resources of each, and how many at most."""

    name: str
    resources: dict[str, float]
    max_nodes: int

    def __str__(self) -> str:
        amounts = ", ".join(f"{name}: {amount:g}" for name, amount in sorted(self.resources.items()))
        return f"{self.name} ({{{amounts}}}, at most {self.max_nodes})"


@dataclass(frozen=True)
class NodeTypes:
    """The types of nodes that an autoscaler may start, and how many nodes of all types together at most."""

    types: tuple[NodeType, ...]
    max_nodes: int

    def room_for_workers(self, per_worker: dict[str, float]) -> int:
        """How many workers there may be on such nodes at once."""
        workers, nodes = 0, self.max_nodes
        for fitting, count in sorted(
            ((workers_that_fit(one.resources, per_worker), one.max_nodes) for one in self.types), reverse=True
        ):
            workers += fitting * min(count, nodes)
            nodes -= min(count, nodes)
        return workers


def workers_that_fit(resources: dict[str, float], per_worker: dict[str, float]) -> int:
    """How many workers fit on one node."""
    return min(how_often(resources.get(name, 0.0), amount) for name, amount in per_worker.items())


def living_nodes() -> list[dict[str, float]]:
    """Ray resources of the nodes that the cluster has now."""
    return [node["Resources"] for node in ray_nodes(alive=True)]


def room_for_workers(nodes: Iterable[dict[str, float]], per_worker: dict[str, float]) -> int:
    """How many workers of these resources fit on the nodes."""
    return sum(workers_that_fit(node, per_worker) for node in nodes)


def rented_as() -> str | None:
    """The entry of the price table that this process's node is labelled with; None without a label, or outside of
    Ray."""
    import ray

    if not ray.is_initialized():
        return None
    labels: Mapping[str, Any] = ray.get_runtime_context().get_node_labels()  # texts, though Ray's hint says lists
    price = labels.get(PRICE_LABEL)
    return None if price is None else str(price)


def node_types(say: Callable[[str], object], root: Path = Path("/")) -> NodeTypes | None:
    """The nodes that this cluster's autoscaler may start, none where none is seen; None if its settings cannot be read.

    The settings are those of the autoscaler that runs on this machine or in this pod, which is a cluster's head: Ray
    itself has no question that tells them. `root` is the machine's file system; `say` is told why they are not known.

    Raises:
        ValueError: settings of which Ray's autoscaler cannot make node types.
    """
    for arguments in _command_lines(root / "proc"):
        for argument in arguments:
            if argument.startswith(CONFIG_ARGUMENT):
                path = Path(argument.removeprefix(CONFIG_ARGUMENT)).expanduser()
                if path.is_file():
                    return parse_node_types(read_yaml_file(path))
    config = autoscaling_config(say, root)
    return None if config is None else parse_node_types(config)


def parse_node_types(config: Any) -> NodeTypes:
    """The node types of a cluster's YAML file, without the head's; none of an empty one.

    Raises:
        ValueError: what should be a mapping or a number is none.
    """
    config = _mapping(config, "the cluster's file")
    most, head = _number(config.get("max_workers", 2), "max_workers"), config.get("head_node_type")
    found = []
    for name, node_type in _mapping(config.get("available_node_types"), "available_node_types").items():
        node_type = _mapping(node_type, f"available_node_types.{name}")
        resources = _mapping(node_type.get("resources"), f"available_node_types.{name}.resources")
        amounts = {key: _number(amount, f"{name}.resources.{key}") for key, amount in resources.items()}
        max_nodes = int(min(most, _number(node_type.get("max_workers", most), f"{name}.max_workers")))
        if name != head and max_nodes > 0:
            found.append(NodeType(name, amounts, max_nodes))
    return NodeTypes(tuple(found), int(most))


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(str(value))}, expected a mapping as in cluster.yaml")
    return value or {}


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_AMOUNT:
        raise ValueError(f"{name} is {shown(str(value))}, expected a number from 0 to {MOST_AMOUNT:,}")
    return float(value)


def worker_slots(
    plan: Plan, execution: Execution, nodes: list[dict[str, float]], types: NodeTypes | None, *, may_grow: bool
) -> int:
    """How many workers may be in flight: no more than `execution.max_workers`, and no more than there may ever be.

    `nodes` are those that there are now, `types` those that may be started, as of `node_types`. A cluster that may grow
    by unknown nodes is taken at its study's word, `execution.max_workers`.

    Raises:
        ValueError: a trial asks for more workers than there may ever be, or for nodes that no type is; or the head is
            too small to drive it.
    """
    cap, widest = execution.max_workers, widest_trial(plan)
    if plan.expected()[widest].workers > 1:
        _check_heads(nodes, widest)
    if types is not None and types.types:  # all nodes but the head are of these types, and those that live count there
        heads = [node for node in nodes if HEAD in node]
        ever = room_for_workers(heads, execution.per_worker) + types.room_for_workers(execution.per_worker)
    else:
        ever = room_for_workers(nodes, execution.per_worker)
        if may_grow and cap is not None:
            ever = max(ever, cap)
    slots = ever if cap is None else min(cap, ever)
    if plan.expected()[widest].workers > slots:
        raise ValueError(_too_wide(plan, execution, slots, types))
    return slots


def _check_heads(nodes: Iterable[dict[str, float]], id: str) -> None:
    """Refuse a head on which there is never room for what drives a trial of several workers."""
    found = [node.get("memory", 0.0) for node in nodes if HEAD in node]
    if found and max(found) < DRIVER_BYTES:
        raise ValueError(
            f"{id} has several workers, for which Ray needs {DRIVER_BYTES / 2**30:.2g} GiB on the cluster's head, but "
            f"the memory that Ray gives away there is {max(found) / 2**30:.2g} GiB: take a bigger head, end what else "
            "runs there before Ray is started, or set execution.workers to 1"
        )


def widest_trial(plan: Plan) -> str:
    """Id of the trial with the most workers, an unfinished one if there is one."""
    trials = plan.expected()
    return max(trials, key=lambda id: (id not in plan.finished, trials[id].workers))


def _too_wide(plan: Plan, execution: Execution, slots: int, types: NodeTypes | None) -> str:
    id = widest_trial(plan)
    asks = f"{id} asks for {plan.expected()[id].workers} workers of {execution.per_worker}"
    if execution.max_workers == slots:
        return f"{asks}, but execution.max_workers is {slots}; raise it, or lower execution.workers"
    if types is not None and types.types:
        listed = "\n".join(f"  {node_type}" for node_type in types.types)
        return (
            f"{asks}, but this cluster can have {slots} at most, however long one waits. It may start "
            f"{types.max_nodes} nodes, of these types:\n{listed}\nLower execution.workers or execution.per_worker, or "
            "add nodes to the cluster's YAML file"
        )
    return (
        f"{asks}, but there is room for {slots}; lower execution.workers or execution.per_worker, launch on a bigger "
        "cluster, or set execution.max_workers for a cluster that grows on demand"
    )


def _command_lines(proc: Path) -> list[list[str]]:
    """Arguments of all processes of this machine that this user may see."""
    found = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:  # it has ended meanwhile
            continue
    return found
