"""What one trial trains, as text: its schedule, and every part of its networks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from reports.records import Record
from study.trial import TrialSpec, head_of, parse_trial
from trainables.architecture import parse_architecture
from trainables.classifier import ModelSpec
from trainables.explain import Part, parts
from trainables.schedule import learning_rate_at, peak_learning_rate, total_steps, warmup_steps
from trainables.spec import PROTOCOL, DistillSettings, PretrainSettings

COLUMNS = (
    "part",
    "",
    "tensors",
    "parameters",
    "trained",
    "weight decay",
    "trust ratio",
    "learning rate",
    "batch norm by",
)


def find_trial(wanted: str, known: Collection[str]) -> str:
    """The one known id that is `wanted`, or begins so.

    Raises:
        ValueError: none or several; the nearest or all are named.
    """
    matching = [wanted] if wanted in known else sorted(id for id in known if id.startswith(wanted))
    if len(matching) == 1:
        return matching[0]
    if matching:
        shown = ", ".join(matching[:5]) + (", ..." if len(matching) > 5 else "")
        raise ValueError(f"{len(matching)} trials begin with {wanted!r}: {shown}; write more of the id")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.3)
    hint = f"the nearest is {near[0]!r}" if near else "`plan` lists a study's trials" if known else "there are none yet"
    raise ValueError(f"no trial {wanted!r}; {hint}")


def of_record(record: Record) -> TrialSpec:
    """The specification of a finished trial.

    Raises:
        ValueError: it was run by code that computed other numbers, so that what this code does says nothing of it.
    """
    if record.spec.protocol != PROTOCOL:
        raise ValueError(
            f"{record.id} was run under protocol {record.spec.protocol}, this code is protocol {PROTOCOL}: check out "
            f"its commit, {record.environment.commit if record.environment else 'unknown'}, to explain it"
        )
    return parse_trial(record.spec.model_dump(mode="json"))


@dataclass(frozen=True)
class RecordedImages:
    """How many images a finished trial trained on, as its record says."""

    train_images: int
    labelled_images: int

    def labelled(self, label_fraction: float) -> int:
        """The labelled images of the trial's own label fraction."""
        return self.labelled_images


def explain_trial(id: str, spec: TrialSpec, rows: int, ancestor: Callable[[str], TrialSpec]) -> Iterator[str]:
    """A trial as lines of text; `rows` is what an epoch passes over, `ancestor` gives the specification of a trial."""
    settings, optimization = spec.settings, spec.settings.optimization
    batch = optimization.global_batch_size
    steps = total_steps(rows, optimization.epochs, batch)
    warmup = warmup_steps(rows, optimization.warmup_epochs, batch)
    start, end = (learning_rate_at(step, rows=rows, optimization=optimization) for step in (0, steps - 1))
    peak = peak_learning_rate(optimization)
    yield f"trial      {id}"
    yield f"parent     {spec.parent or 'none: random initialization'}"
    yield f"images     {rows:,} an epoch, {optimization.epochs} epochs = {steps:,} steps of {batch:,}"
    beta2 = f", beta2 {optimization.beta2:g}" if optimization.optimizer == "adamw" else ""
    yield f"optimizer  {optimization.optimizer}, momentum {optimization.momentum:g}{beta2}, {optimization.precision}"
    yield (
        f"schedule   learning rate {start:.4g} at the first step, {peak:.4g} at its peak (step {warmup:,}), "
        f"{end:.4g} at the last; half a cosine after {warmup:,} steps of warm-up"
    )
    yield ""
    architecture = parse_architecture(spec.architecture)
    parent = None if spec.parent is None else ancestor(spec.parent)
    head_depth = parent.settings.head_depth if parent and isinstance(parent.settings, PretrainSettings) else 0
    teacher = _teacher(parent, ancestor) if parent is not None and isinstance(settings, DistillSettings) else None
    found = parts(architecture, spec.data.image_size, spec.data.classes, settings, head_depth, teacher)
    yield from _table([COLUMNS, *(_row(part, optimization.optimizer, start, peak, end) for part in found)])


def _teacher(spec: TrialSpec, ancestor: Callable[[str], TrialSpec]) -> ModelSpec:
    return ModelSpec(spec.architecture, spec.data.image_size, spec.data.classes, *head_of(spec, ancestor))


def _row(part: Part, optimizer: str, start: float, peak: float, end: float) -> tuple[str, ...]:
    rate = f"{start:.4g} / {peak:.4g} / {end:.4g}" if part.trained else "-"
    if part.rate_scales != (1.0, 1.0):
        rate += f", times {part.rate_scales[0]:.3g} to {part.rate_scales[1]:.3g} by layer"
    trust_ratio = ("yes" if part.trust_ratio else "no") if part.trained and optimizer == "lars" else "-"
    return (
        part.network,
        part.kind,
        f"{part.tensors:,}",
        f"{part.parameters:,}",
        "trained" if part.trained else "frozen",
        (f"{part.weight_decay:g}" if part.weight_decay else "no") if part.trained else "-",
        trust_ratio,
        rate,
        part.moments or "-",
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows as text in columns, counts to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
