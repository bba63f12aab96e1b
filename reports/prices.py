"""What trainings cost in money: device-hours times a dated price table, which a user can replace by an own one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, ValidationError, field_validator

from reports.plain_yaml import read_yaml_file
from reports.records import Record, RecordPart, Resources

DEFAULT = Path(__file__).parent / "prices.yaml"

Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Month = Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]


class CpuPrice(RecordPart):
    """Price of one core for one hour; `source` says whose price it is."""

    per_core_hour: Price
    date: Month
    source: str


class DevicePrice(RecordPart):
    """Price of one device for one hour, for device names that match `pattern` (shell wildcards, any case)."""

    pattern: str
    per_device_hour: Price
    date: Month
    source: str


class NodePrice(RecordPart):
    """Price of one node of a type for one hour.

    `type` is what a user asks for and what nodes of a cluster are labelled with; other terms of the same machine, such
    as spot, are another type. `devices` is how many it has of `device`, a pattern as in `DevicePrice`; of a node
    without GPUs, "cpu" and its vCPUs.
    """

    type: str
    devices: Annotated[int, Field(ge=1, le=1_000_000)]
    device: str
    per_hour: Price
    date: Month
    source: str


class Prices(RecordPart):
    """A price table; the first device whose pattern matches counts, and every node type has one price."""

    currency: str
    cpu: CpuPrice | None = None
    devices: tuple[DevicePrice, ...] = ()
    nodes: tuple[NodePrice, ...] = ()

    @field_validator("nodes")
    @classmethod
    def _types_differ(cls, nodes: tuple[NodePrice, ...]) -> tuple[NodePrice, ...]:
        for node in nodes:
            if sum(other.type == node.type for other in nodes) > 1:
                raise ValueError(f"node type {node.type} has two prices; name other terms otherwise, as in a-spot")
        return nodes

    def of(self, device: str) -> DevicePrice | None:
        return next((one for one in self.devices if fnmatchcase(device.lower(), one.pattern.lower())), None)

    def node(self, type: str) -> NodePrice:
        """Raises ValueError, naming the types there are, for a type without a price."""
        found = next((one for one in self.nodes if one.type == type), None)
        if found is None:
            known = ", ".join(one.type for one in self.nodes) or "none"
            raise ValueError(
                f"the price table has no node type {type!r}; it has: {known}. Choose one of them, or give a table "
                "with it by --prices FILE.yaml"
            )
        return found

    def rented(self, device: str, node_type: str) -> NodePrice | None:
        """The node type that a trial noted, if it is in the table and of the device that the trial had."""
        found = next((one for one in self.nodes if one.type == node_type), None)
        return found if found and fnmatchcase(device.lower(), found.device.lower()) else None


@dataclass(frozen=True)
class Money:
    """Cost of each trial in `currency`.

    Columns of `trials`: id, money (of the trial itself), planned_money (of the time that its launch had estimated, at
    the same price), total_money (with all ancestors, each in full); NaN where a price, a time or an ancestor is
    unknown. `unpriced` names the devices without a price, `nodes` are the node types whose prices counted, and
    `unpriced_nodes` names those that trials noted but the table has not, or not with such a device.
    """

    currency: str
    trials: pd.DataFrame
    unpriced: tuple[str, ...]
    nodes: tuple[NodePrice, ...]
    unpriced_nodes: tuple[str, ...]


def read_prices(path: str | Path = DEFAULT) -> Prices:
    """A price table, the project's own unless a user gives another.

    Raises ValueError when the file is missing or not a price table.
    """
    try:
        content = read_yaml_file(path)
    except ValueError as error:
        raise ValueError(f"no price table: {error}; expected a file like {DEFAULT}") from None
    try:
        return Prices.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is not a price table: {place}: {first['msg']}; expected the form of {DEFAULT}"
        ) from error


def resources_used(records: Sequence[Record]) -> dict[str, Resources]:
    """What each trial that states it ran on, by trial id."""
    return {record.id: record.resources for record in records if record.resources is not None}


def money(trials: pd.DataFrame, prices: Prices, used: Mapping[str, Resources]) -> Money:
    """What each trial of a table cost; `used` by trial id, as of `resources_used`.

    A trial is priced by the node types that its record notes, those of rank 0: of a trial over nodes of several types
    at once this is an approximation. Where none is noted or the table lacks it, its device's price counts.
    """
    ids: list[str] = trials["id"].tolist()
    per_second = [hourly(used[id], prices) / 3600 if id in used else math.nan for id in ids]
    own = dict(zip(ids, (trials["device_seconds"] * per_second).tolist(), strict=True))
    parents = dict(zip(ids, trials["parent"].tolist(), strict=True))
    totals = [_total(id, own, parents) for id in ids]
    planned = trials["planned_device_seconds"] * per_second
    table = pd.DataFrame(
        {"id": ids, "money": list(own.values()), "planned_money": planned.tolist(), "total_money": totals}
    )
    shown = {(used[id].device, type) for id in ids if id in used for type in seconds_on(used[id])}
    nodes = {node.type: node for one in shown if (node := prices.rented(*one))}
    by_device = [one for one in shown if not prices.rented(*one)]
    unpriced = {device for device, _ in by_device if math.isnan(_of_device(device, prices))}
    unpriced_nodes = {type for _, type in by_device if type}
    sorted_nodes = tuple(nodes[name] for name in sorted(nodes))
    return Money(prices.currency, table, tuple(sorted(unpriced)), sorted_nodes, tuple(sorted(unpriced_nodes)))


def hourly(used: Resources, prices: Prices) -> float:
    """Price of one worker for one hour, on average over the node types that it was on; NaN where it is unknown.

    A device costs its share of the noted node type's price, where the table has that, else the device's own.
    """
    seconds = seconds_on(used)
    paid = sum(_per_hour(used.device, type, prices) * part for type, part in seconds.items())
    return devices_paid(used.device, used.per_worker) * paid / sum(seconds.values())


def devices_paid(device: str, per_worker: Mapping[str, float]) -> float:
    """How many devices a worker pays for: the GPUs that it asks for (1 where it does not say, as in `study.budget`),
    with which it has the cores of rented machines, or on "cpu" its cores; NaN where it asks for neither."""
    return per_worker.get("CPU", math.nan) if device == "cpu" else per_worker.get("GPU", 1.0)


def seconds_on(used: Resources) -> dict[str, float]:
    """Wall seconds of a trial by node type ("": not noted), in any unit where it was on one type."""
    return used.seconds_on or {used.node_type or "": 1.0}


def money_text(amount: float) -> str:
    """An amount of money: 1,234.50, or two digits of less than one; unknown for NaN."""
    if math.isnan(amount):
        return "unknown"
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:#.2g}"


def _per_hour(device: str, node_type: str, prices: Prices) -> float:
    """Price of one core or one GPU of a node for one hour; NaN where the table has none."""
    node = prices.rented(device, node_type)
    return node.per_hour / node.devices if node else _of_device(device, prices)


def _of_device(device: str, prices: Prices) -> float:
    """Price of one core or one GPU for one hour; NaN where the table has none."""
    if device == "cpu":
        return prices.cpu.per_core_hour if prices.cpu else math.nan
    found = prices.of(device)
    return found.per_device_hour if found else math.nan


def _total(id: str, own: Mapping[str, float], parents: Mapping[str, str]) -> float:
    total, seen = 0.0, set[str]()
    while not pd.isna(id):
        if id in seen or id not in own:
            return math.nan
        seen.add(id)
        total += own[id]
        id = parents[id]
    return total
