"""What trainings cost in money: device-hours times a dated price table, which a user can replace by an own one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from reports.records import Record

DEFAULT = Path(__file__).parent / "prices.yaml"

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Month = Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CpuPrice(Part):
    """Price of one core for one hour; `source` says whose price it is."""

    per_core_hour: Price
    date: Month
    source: str


class DevicePrice(Part):
    """Price of one device for one hour, for device names that match `pattern` (shell wildcards, any case)."""

    pattern: str
    per_device_hour: Price
    date: Month
    source: str


class NodePrice(Part):
    """Price of one node of a type for one hour.

    `type` is what a user asks for; other terms of the same machine, such as spot, are another type. `devices` is how
    many it has of `device`, a pattern as in `DevicePrice`; of a node without GPUs, "cpu" and its vCPUs.
    """

    type: str
    devices: Annotated[int, Field(ge=1)]
    device: str
    per_hour: Price
    date: Month
    source: str


class Prices(Part):
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


@dataclass(frozen=True)
class Money:
    """Cost of each trial in `currency`.

    Columns of `trials`: id, money (of the trial itself), total_money (with all ancestors, each in full); NaN where a
    price, a time or an ancestor is unknown. `unpriced` names the devices without a price.
    """

    currency: str
    trials: pd.DataFrame
    unpriced: tuple[str, ...]


def read_prices(path: str | Path = DEFAULT) -> Prices:
    """A price table, the project's own unless a user gives another.

    Raises ValueError when the file is missing or not a price table.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)  # dates stay text
        return Prices.model_validate(content)
    except OSError as error:
        raise ValueError(f"no price table at {path} ({error.strerror}); expected a file like {DEFAULT}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a price table, not even YAML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path} is not a price table: {place}: {first['msg']}; expected the form of {DEFAULT}"
        ) from error


def worker_cores(records: Sequence[Record]) -> dict[str, float]:
    """CPU cores of one worker of each trial that states them, by trial id."""
    stated = ((record.id, record.resources) for record in records)
    return {id: used.per_worker["CPU"] for id, used in stated if used is not None and "CPU" in used.per_worker}


def money(trials: pd.DataFrame, prices: Prices, cores: Mapping[str, float]) -> Money:
    """What each trial of a table cost; `cores` of a worker by trial id, as of `worker_cores`, price those on "cpu".

    Workers that have a device are priced by the device alone: rented machines come with their cores.
    """
    ids: list[str] = trials["id"].tolist()
    used = zip(ids, trials["device"].tolist(), trials["device_seconds"].tolist(), strict=True)
    own = {id: hourly(device, prices, cores.get(id, math.nan)) * seconds / 3600 for id, device, seconds in used}
    parents = dict(zip(ids, trials["parent"].tolist(), strict=True))
    totals = [_total(id, own, parents) for id in ids]
    table = pd.DataFrame({"id": ids, "money": list(own.values()), "total_money": totals})
    devices = sorted(set(trials["device"].dropna().tolist()))
    unpriced = [device for device in devices if math.isnan(hourly(device, prices, 1.0))]
    return Money(prices.currency, table, tuple(unpriced))


def hourly(device: str, prices: Prices, cores: float) -> float:
    """Price of one worker with a device, or "cpu" and so many cores, for one hour; NaN where it is unknown."""
    if pd.isna(device):
        return math.nan
    if device == "cpu":
        return prices.cpu.per_core_hour * cores if prices.cpu else math.nan
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
