"""Measures a few steps of every architecture and stage of a plan on the hardware at hand: `plan --calibrate`."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import assert_never

import torch

from study.beside import seconds_beside_steps
from study.counted import check_counts
from study.hardware import processor
from study.images import ShardedImages
from study.plan import Plan, PlannedTrial, forward_flops_of, train_flops
from study.synthetic import encode, run_linear_steps, run_steps
from study.throughput import Calibration, Kind, Measurement, kind_of
from study.trial import TrialSpec
from trainables.context import Context, prepare_torch
from trainables.spec import EncoderRecipe, LinearSettings
from trainables.stage import EVAL_BATCH_SIZE

WARM_UP, STEPS = 2, 5
"""Steps before the first that counts, and those that count, of which the median is kept."""

SECONDS = 2.0
"""Seconds after which no further step of a kind is begun, once one has been measured."""

CPU_FLOPS = 1e11
"""Largest step on a CPU, about a second of two cores; larger batches are cut, as big networks would take minutes."""

COPIES = 4
"""Parameters, gradients, momentum, and a copy while a model is loaded: what a CPU must hold of a network."""

RATE = 1e-6
"""Learning rate of the steps: their arithmetic is that of any other, and nothing diverges on noise."""


UNREAD = "  reading, decoding and evaluation are left out: they are measured once the images are sharded"


class _EnoughError(Exception):
    """Raised out of a training that has made its steps."""


class Clock:
    """Told after each step, waits for the device, and ends the training when enough steps were timed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def __call__(self, share: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.monotonic())
        made, spent = len(self.times), self.times[-1] - self.times[0]
        if made == WARM_UP + STEPS or (made > WARM_UP and spent > SECONDS):
            raise _EnoughError

    def seconds(self) -> list[float]:
        """Of each step after the warm-up."""
        later = self.times[WARM_UP - 1 :]
        return [after - before for before, after in itertools.pairwise(later)]


def calibrate(plan: Plan, say: Callable[[str], None], images: ShardedImages | None = None) -> Calibration:
    """Measure one worker of every kind of unfinished trial (or of every kind, where all have finished).

    In steps, images are noise of the study's size, and the batch is that of one worker; what does not fit is cut, and
    said so. Reading, decoding and evaluation are measured on the study's `images`, once they are sharded. Exchanges
    between workers are left out. That others compute here meanwhile is said, since their load makes times longer.

    Raises:
        ValueError: no GPU for workers that ask for one, networks whose operations torch counts otherwise than the plan,
            or nothing that could be measured.
    """
    per_worker = plan.study.execution.per_worker
    device = device_here(per_worker)
    prepare_torch(per_worker, tf32=plan.study.execution.tf32)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    hardware = name if device.type == "cuda" else processor()
    say(f"calibrating on {hardware}")
    load = os.getloadavg()[0]
    for line in (*_busy(load), *(() if images else (UNREAD,))):
        say(line)
    kinds: dict[Kind, PlannedTrial] = {}
    for trial in (plan.missing() or plan.trials).values():
        kinds.setdefault(kind_of(trial), trial)
    say(counted(plan, dict.fromkeys(kind.architecture for kind in kinds)))
    measured = []
    with tempfile.TemporaryDirectory(prefix="labelscale-calibrate-") as folder:
        for kind, trial in kinds.items():
            context = Context(
                folder,
                device=device,
                channels_last=plan.study.execution.channels_last,
                min_effective_rank=0,
                checkpoint_seconds=float("inf"),
            )
            lacking = _lacking_memory(trial) if device.type == "cpu" else ""
            if lacking:
                say(f"{kind.architecture} {kind.stage}: left out: {lacking}")
                continue
            found = measure(trial, kind, plan, context)
            if images is not None:
                found = found.model_copy(update={"beside": seconds_beside_steps(trial, images, context)})
            measured.append(found)
            say(_line(found, kind))
    if not measured:
        raise ValueError("nothing could be calibrated: no network of this plan fits into this machine's memory")
    versions = {package: importlib.metadata.version(package) for package in ("torch", "torchvision", "numpy")}
    return Calibration(
        device=name,
        hardware=hardware,
        measured_at=datetime.now(UTC),
        versions=versions,
        load=load,
        measurements=tuple(measured),
    )


def _busy(load: float) -> list[str]:
    """What is said of others that compute here, where they and this process are more than half of the cores."""
    cores = os.cpu_count() or 1
    if load <= 0.5 + cores / 2:
        return []
    return [f"  others compute here, too: a load of {load:.1f} on {cores} cores; without them trials take less"]


def device_here(per_worker: Mapping[str, float]) -> torch.device:
    """The device of one worker here.

    Raises:
        ValueError: a worker asks for a GPU that this machine lacks.
    """
    if "GPU" not in per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"a worker of this study asks for {dict(per_worker)}, and torch finds no GPU here: calibrate on a machine "
            "that has the GPUs, into the same storage"
        )
    return torch.device("cuda")


def counted(plan: Plan, architectures: Iterable[str]) -> str:
    """Hold the plan's operations against torch's own counter on the real networks; what they differ by."""
    data = plan.study.data
    shares = [check_counts(name, data.image_size, data.classes, 3) for name in architectures]
    return (
        f"operations of {len(shares)} architecture{'s' if len(shares) > 1 else ''}: as torch counts them on the real "
        f"networks, but for at most {max(shares):.1%}: gradients of the images, which a plan counts and nobody needs"
    )


def measure(trial: PlannedTrial, kind: Kind, plan: Plan, context: Context) -> Measurement:
    """Time steps of one kind of trial; a GPU without room for its batch tries half of it, and so on."""
    batch = kind.batch
    encodes_first = isinstance(trial.spec.settings, LinearSettings)  # in batches of their own size
    if context.device.type == "cpu" and not encodes_first:
        images = trial.steps * trial.spec.settings.optimization.global_batch_size
        batch = min(batch, max(2, int(CPU_FLOPS * images / trial.train_flops)))
    while True:
        try:
            seconds, flops, steps = _timed(trial, batch, plan, context)
            break
        except torch.OutOfMemoryError:
            if batch < 4:
                raise
            batch //= 2
            torch.cuda.empty_cache()
    return Measurement(
        architecture=kind.architecture,
        stage=trial.spec.stage,
        batch=batch,
        image_size=kind.image_size,
        precision=kind.precision,
        steps=steps,
        seconds=seconds,
        flops=flops,
    )


def _timed(trial: PlannedTrial, batch: int, plan: Plan, context: Context) -> tuple[float, float, int]:
    """Seconds, operations, and how many steps were timed: of one step, of linear evaluation of the whole trial."""
    spec = _with_batch(trial, batch)
    if isinstance(spec.settings, EncoderRecipe):
        times = _times(lambda: run_steps(spec, trial.rows, plan, context), context)
        return statistics.median(times), train_flops(spec, 1, trial.rows, plan.trials), len(times)
    if not isinstance(spec.settings, LinearSettings):
        assert_never(spec.settings)
    images = EVAL_BATCH_SIZE
    if context.device.type == "cpu":
        one = forward_flops_of(spec.architecture, spec.data.image_size, 0, 0, 0)
        images = min(images, max(1, int(CPU_FLOPS / one)))
    encoding = _times(lambda: encode(spec, images, context), context)
    steps = _times(lambda: run_linear_steps(spec, trial.rows, context), context)
    seconds = trial.rows * statistics.median(encoding) / images + trial.steps * statistics.median(steps)
    return seconds, trial.train_flops, min(len(encoding), len(steps))


def _times(run: Callable[[], None], context: Context) -> list[float]:
    context.report = clock = Clock(context.device)
    try:
        run()
    except _EnoughError:
        return clock.seconds()
    raise AssertionError("a training ended before its steps were timed")


def _with_batch(trial: PlannedTrial, batch: int) -> TrialSpec:
    """The trial as one worker has it, long enough to be timed; fewer micro-batches where the batch has too few rows."""
    spec = trial.spec
    optimization = spec.settings.optimization
    changed: dict[str, object] = {
        "optimization": optimization.model_copy(
            update={
                "global_batch_size": batch,
                "learning_rate": RATE,
                "epochs": optimization.epochs + (WARM_UP + STEPS) * batch // trial.rows + 1,
            }
        )
    }
    parts = getattr(spec.settings, "micro_batches", 1)
    if batch % parts or batch // parts < 2:
        changed["micro_batches"] = 1
    return spec.model_copy(update={"settings": spec.settings.model_copy(update=changed)})


def _lacking_memory(trial: PlannedTrial) -> str:
    """What a CPU's memory lacks for a network, or nothing."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = COPIES * 4 * trial.parameters
    return f"it needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free" if needed > free else ""


def _line(found: Measurement, kind: Kind) -> str:
    cut = f" (cut from {kind.batch:,})" if found.batch < kind.batch else ""
    what = f"{found.architecture} {found.stage}, {found.batch:,} rows{cut}"
    rate = f"{found.flops / found.seconds / 1e9:,.3g} GFLOP/s"
    unit = "for a trial" if found.stage == "linear" else f"a step (median of {found.steps})"
    beside = f", and {found.beside:.3g} s a trial to read and evaluate images" if found.beside else ""
    return f"  {what}: {found.seconds:.3g} s {unit}, {rate}{beside}"
