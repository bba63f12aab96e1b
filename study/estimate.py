"""What a plan takes before it is launched: device-hours, wall clock and money, as far as finished trials and
calibrations tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from reports.prices import NodePrice, Prices, devices_paid, hourly
from reports.records import Record, Resources
from study.config import Execution
from study.hardware import Hardware, processor, this_machine
from study.plan import Plan
from study.simulate import Simulation, critical_path, simulate_plan
from study.throughput import Calibration, Throughput


@dataclass(frozen=True)
class WallClock:
    """A launch on `devices` devices, simulated; `chain` is its critical path and the seconds of that alone."""

    devices: int
    simulation: Simulation
    chain: list[str]
    chain_seconds: float


@dataclass(frozen=True)
class HourlyPrice:
    """What an hour of a worker's device, or of its part of one, costs: `per_hour` in `currency` (NaN: unknown),
    and whose price that is and of when."""

    per_hour: float
    currency: str
    told: str


@dataclass(frozen=True)
class Estimate:
    """What a plan takes on `hardware`, whose device is `device` (empty where no finished trial tells).

    `seconds` are device-seconds by trial: what finished trials took, what is predicted of others, NaN where nothing is
    known. `sources` counts the unfinished trials by what their prediction rests on. Without a wall clock, `why_none`
    says what is missing for it. `node` is what is rented, if a type was asked for.
    """

    hardware: Hardware
    device: str
    seconds: dict[str, float]
    sources: Counter[str]
    wall_clock: WallClock | None
    why_none: str
    price: HourlyPrice
    node: NodePrice | None

    def bill(self) -> float:
        """Rent of whole nodes from launch to end, idle devices included; NaN without a node type or a wall clock."""
        if self.node is None or self.wall_clock is None:
            return math.nan
        return self.nodes() * self.node.per_hour * self.wall_clock.simulation.makespan / 3600

    def nodes(self) -> int:
        """Nodes that hold the devices of the wall clock."""
        return 0 if self.wall_clock is None else math.ceil(self.wall_clock.devices / self.hardware.slots)


def estimate_plan(
    plan: Plan,
    records: Iterable[Record],
    throughput: Throughput,
    hardware: Hardware,
    devices: int | None,
    prices: Prices,
    node: NodePrice | None = None,
) -> Estimate:
    """Predict a plan; `records` are those of its finished trials, `devices` None means all that `hardware` has.

    Raises:
        ValueError: fewer `devices` than the workers of a trial.
    """
    seconds, sources = {}, Counter[str]()
    for id, trial in plan.missing().items():
        seconds[id] = throughput.seconds(trial)
        sources[throughput.source(trial)] += 1
    for record in records:
        if record.id in plan.finished and record.cost.device_seconds is not None:
            seconds[record.id] = record.cost.device_seconds
    execution = plan.study.execution
    price = _price_of_node(node, execution, prices) if node else _price_of_device(throughput.device, execution, prices)
    try:
        clock, why = _wall_clock(plan, seconds, devices or _slots(hardware, execution))
    except ValueError as error:
        if devices is not None:
            raise
        clock, why = None, str(error)
    return Estimate(hardware, throughput.device, seconds, sources, clock, why, price, node)


def throughput_here(execution: Execution, records: Iterable[Record], calibrations: Iterable[Calibration]) -> Throughput:
    """What these records and calibrations tell of devices like this machine's."""
    return Throughput(records, calibrations, this_machine(execution.per_worker).device, processor())


def _slots(hardware: Hardware, execution: Execution) -> int:
    return min(hardware.slots, execution.max_workers or hardware.slots)


def _wall_clock(plan: Plan, seconds: dict[str, float], devices: int) -> tuple[WallClock | None, str]:
    missing = plan.missing()
    unknown = sum(math.isnan(seconds[id]) for id in missing)
    if unknown:
        return None, f"the time of {unknown:,} trials is unknown"
    if not devices:
        return None, "this machine has none of the devices that a worker asks for; say --devices N or --node TYPE"
    wall = {id: seconds[id] / trial.workers for id, trial in missing.items()}
    return WallClock(devices, simulate_plan(plan, wall, devices), *critical_path(plan, wall)), ""


def _price_of_node(node: NodePrice, execution: Execution, prices: Prices) -> HourlyPrice:
    share = devices_paid(node.device, execution.per_worker) / node.devices
    told = f"{node.type}, {node.per_hour:g} {prices.currency} an hour, {node.source}, {node.date}"
    return HourlyPrice(node.per_hour * share, prices.currency, told)


def _price_of_device(device: str, execution: Execution, prices: Prices) -> HourlyPrice:
    used = Resources(workers=1, per_worker=dict(execution.per_worker), device=device)
    per_hour = hourly(used, prices) if device else math.nan
    found = prices.cpu if device == "cpu" else prices.of(device)
    told = f"{device}, {found.source}, {found.date}" if found and device else ""
    return HourlyPrice(per_hour, prices.currency, told)
