"""How long trials take: from trials that have finished, then from what was calibrated, else unknown; never invented."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, TypeAdapter

from datasets.typed_files import BadFileError
from reports.quantities import Count, Moment
from reports.records import Problem, Record
from reports.storage import Storage
from study.bad_files import tell_bad_files
from study.plan import PlannedTrial
from trainables.spec import Spec, Stage

LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the same architecture, stage and batch", ("architecture", "stage", "batch")),
    ("the same architecture and stage", ("architecture", "stage")),
    ("the same architecture", ("architecture",)),
    ("the same stage", ("stage",)),
    ("other architectures and stages", ()),
)
"""What a trial's speed is taken from, the closest first; images of the same size and the same precision throughout.

What a device makes of an operation depends on the shapes of its layers first (architecture), then on how many images
pass at once and on what surrounds the network (stage and batch: augmentation, optimizer, evaluation). Each of 75 trials
of the demo predicted from the others alone was off by a median factor of 1.2, 1.3, 1.4, 2.3 and 2.4. Within a level,
finished trials count before calibrations: they include reading, evaluation and waiting, which a few measured steps do
not."""


class Measurement(Spec):
    """A few steps of one architecture and stage, with `batch` rows on one worker; medians.

    `seconds` are those of `flops` operations, counted as a plan counts them. `beside` are those of a whole trial in
    which it makes no steps: it reads, decodes and is evaluated (0: not measured).
    """

    architecture: str
    stage: Stage
    batch: Count = Field(ge=1)
    image_size: Count
    precision: str
    steps: Count
    seconds: float = Field(ge=1e-9, le=1e9)
    flops: float = Field(ge=1, le=1e40)
    beside: float = Field(default=0.0, ge=0, le=1e9)


class Calibration(Spec):
    """What was measured on one kind of hardware; `device` is its name in records, `hardware` tells it from others,
    `load` is how many processes computed there when it began."""

    format: int = 1
    device: str
    hardware: str
    measured_at: Moment
    versions: dict[str, str]
    load: float | None = Field(default=None, ge=0, le=1e6)
    measurements: tuple[Measurement, ...]


_CALIBRATION = TypeAdapter(Calibration)


@dataclass(frozen=True)
class Kind:
    """What a trial's speed depends on, `batch` being that of one worker."""

    architecture: str
    stage: str
    batch: int
    image_size: int
    precision: str

    def at(self, level: Sequence[str]) -> tuple[object, ...]:
        return (self.image_size, self.precision, *(getattr(self, name) for name in level))


@dataclass
class _Sum:
    seconds: float = 0.0
    flops: float = 0.0
    count: int = 0
    beside: float = 0.0


class Throughput:
    """Predicts device-seconds of trials on one kind of device.

    `device` is its name, or a shell pattern of names; empty, it is whichever GPU most finished trials ran on, else that
    of the latest calibration. `here` is this machine's hardware, whose calibration counts before others' of its device.
    """

    def __init__(
        self, records: Iterable[Record], calibrations: Iterable[Calibration], device: str = "", here: str = ""
    ) -> None:
        timed = [record for record in records if _times(record, any_gpu=not device)]
        known = sorted(calibrations, key=lambda one: (one.hardware == here, one.measured_at), reverse=True)
        known = [one for one in known if device or one.device != "cpu"]
        self.device = device or _commonest(timed) or (known[0].device if known else "")
        timed = [record for record in timed if record.resources and _matches(record.resources.device, self.device)]
        self.calibration = next((one for one in known if _matches(one.device, self.device)), None)
        self._measured = _sums((_kind_of_record(record), *_cost(record), 0.0) for record in timed)
        self._calibrated = _sums(
            (_kind_of_measurement(one), one.seconds, one.flops, one.beside)
            for one in (self.calibration.measurements if self.calibration else ())
        )
        self._rates: dict[Kind, tuple[float, float, str]] = {}

    def seconds(self, trial: PlannedTrial) -> float:
        """Device-seconds of a trial, all its workers' together; NaN where nothing tells."""
        rate, beside, _ = self._rate(trial)
        return rate * trial.train_flops + beside

    def wall_seconds_of_alike(self, trial: PlannedTrial) -> float:
        """Seconds from start to end of a trial, told by trials of its architecture and stage alone; NaN without any."""
        near = any((level, kind_of(trial).at(level)) in self._measured for _, level in LEVELS[:2])
        return self.seconds(trial) / trial.workers if near else math.nan

    def source(self, trial: PlannedTrial) -> str:
        """What the prediction rests on, such as "12 finished trials of the same architecture"; empty where none."""
        return self._rate(trial)[2]

    def _rate(self, trial: PlannedTrial) -> tuple[float, float, str]:
        kind = kind_of(trial)
        if kind not in self._rates:
            self._rates[kind] = self._find(kind)
        return self._rates[kind]

    def _find(self, kind: Kind) -> tuple[float, float, str]:
        """Seconds an operation, seconds beside them, and what tells both."""
        for name, level in LEVELS:
            key = (level, kind.at(level))
            if key in self._measured:
                found = self._measured[key]
                trials = "1 finished trial" if found.count == 1 else f"{found.count:,} finished trials"
                return found.seconds / found.flops, 0.0, f"{trials} of {name}"
            if key in self._calibrated:
                assert self.calibration is not None
                on = f"{self.calibration.hardware}, {self.calibration.measured_at:%Y-%m-%d}"
                found = self._calibrated[key]
                return found.seconds / found.flops, found.beside / found.count, f"calibration of {name} ({on})"
        return math.nan, 0.0, ""


def kind_of(trial: PlannedTrial) -> Kind:
    spec = trial.spec
    optimization = spec.settings.optimization
    batch = optimization.global_batch_size // trial.workers
    return Kind(spec.architecture, spec.stage, batch, spec.data.image_size, optimization.precision)


def read_calibrations(storage: Storage) -> tuple[list[Calibration], list[Problem]]:
    """All calibrations of a storage, and the files there that are none."""
    found: list[Calibration] = []
    problems: list[Problem] = []
    for name in storage.list("calibrations"):
        if name.endswith(".json"):
            try:
                found.append(storage.read_typed(_CALIBRATION, "calibrations", name))
            except FileNotFoundError:  # deleted meanwhile
                continue
            except BadFileError as error:
                problems.append(Problem(error.path, error.reason))
    return found, problems


def told_calibrations(storage: Storage) -> list[Calibration]:
    """All calibrations of a storage; of a file that is none the user is told, and nothing is predicted from it."""
    found, problems = read_calibrations(storage)
    tell_bad_files("a calibration", problems)
    return found


def write_calibration(storage: Storage, calibration: Calibration) -> str:
    """Write what was measured to `calibrations/HARDWARE.json`, beside what that file has of other kinds; its path."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", calibration.hardware).strip("-").lower() + ".json"
    before = [one for one in told_calibrations(storage) if one.hardware == calibration.hardware]
    new = {_kind_of_measurement(one): one for one in calibration.measurements}
    kept = [one for old in before for one in old.measurements if old.versions == calibration.versions]
    merged = {_kind_of_measurement(one): one for one in kept} | new
    whole = calibration.model_copy(update={"measurements": tuple(merged.values())})
    storage.write_bytes(whole.model_dump_json(indent=1).encode(), "calibrations", name)
    return storage.uri("calibrations", name)


def _sums(known: Iterable[tuple[Kind, float, float, float]]) -> Mapping[tuple[object, ...], _Sum]:
    sums: dict[tuple[object, ...], _Sum] = {}
    for kind, seconds, flops, beside in known:
        for _, level in LEVELS:
            added = sums.setdefault((level, kind.at(level)), _Sum())
            added.seconds += seconds
            added.flops += flops
            added.beside += beside
            added.count += 1
    return sums


def _times(record: Record, *, any_gpu: bool) -> bool:
    if record.resources is None or (any_gpu and record.resources.device == "cpu"):
        return False
    return bool(record.cost.device_seconds) and record.cost.train_flops > 0


def _cost(record: Record) -> tuple[float, float]:
    assert record.cost.device_seconds is not None
    return record.cost.device_seconds, record.cost.train_flops


def _kind_of_record(record: Record) -> Kind:
    optimization: Any = record.spec.settings.get("optimization") or {}
    assert record.resources is not None
    batch = int(optimization.get("global_batch_size", 0)) // max(1, record.resources.workers)
    precision = str(optimization.get("precision", "float32"))
    return Kind(record.spec.architecture, record.spec.stage, batch, record.spec.data.image_size, precision)


def _kind_of_measurement(one: Measurement) -> Kind:
    return Kind(one.architecture, one.stage, one.batch, one.image_size, one.precision)


def _commonest(records: Sequence[Record]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        if record.resources:
            counts[record.resources.device] = counts.get(record.resources.device, 0) + 1
    return max(counts, key=lambda name: (counts[name], name), default="")


def _matches(device: str, wanted: str) -> bool:
    return device == wanted or fnmatchcase(device.lower(), wanted.lower())
