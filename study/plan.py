"""The plan of a study: its merged trials with their cost, and which of them are finished."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, assert_never

from datasets.splits import held_out_rows
from study.check import check_batch, check_number, micro_batches
from study.check_space import check_space
from study.choices import Assumed, Choice, Evidence
from study.config import Execution, Study, expected_labels
from study.grid import Expansion, expand
from study.trial import TrialSpec, head_of
from trainables.architecture import PROJECTION_DIM, head_flops, parse_architecture
from trainables.schedule import learning_rate_at, total_steps
from trainables.spec import (
    DistillSettings,
    FinetuneSettings,
    LinearSettings,
    PretrainSettings,
    Settings,
    Stage,
    SupervisedSettings,
)


class Images(Protocol):
    """How many images a study trains on."""

    @property
    def train_images(self) -> int: ...

    def labelled(self, label_fraction: float) -> int: ...


@dataclass(frozen=True)
class ExpectedImages:
    """Counts as the study's file states them, before its images were sharded; the rows of a fraction are estimated."""

    train_images: int
    classes: int

    @classmethod
    def of(cls, study: Study) -> ExpectedImages:
        return cls(study.data.limited_train_images, study.data.classes)

    def labelled(self, label_fraction: float) -> int:
        return expected_labels(label_fraction, self.train_images, self.classes)


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and what it takes.

    `parameters` are the encoder's, as the paper's Table 1 counts them (with batch norm's moving statistics).
    `train_flops` is the arithmetic of training: forward and backward passes, a multiply-add being two operations; the
    evaluation afterwards is left out. `after`: other trials that must have ended before, since they decide about it.
    """

    id: str
    spec: TrialSpec
    workers: int
    rows: int
    steps: int
    parameters: int
    train_flops: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All trials of a study that are known, parents first, beside what a grid without merging would run.

    `assumed` are trials that a choice will add or replace: what is open costs about as much as these, in which the
    first option of every choice is taken to be the best. `open_choices` are not decided yet. `exploring`: more cells of
    the grid may be picked.
    """

    study: Study
    cells: int
    naive: Counter[Stage]
    trials: dict[str, PlannedTrial]
    finished: frozenset[str]
    assumed: dict[str, PlannedTrial] = field(default_factory=dict)
    open_choices: tuple[Choice, ...] = ()
    exploring: bool = False

    def missing(self) -> dict[str, PlannedTrial]:
        return {id: trial for id, trial in self.trials.items() if id not in self.finished}

    def part(self, ids: Collection[str]) -> Plan:
        """The plan of these trials only, whose parents are among them or finished."""
        trials = {id: trial for id, trial in self.trials.items() if id in ids or id in self.finished}
        return replace(self, trials=trials)

    def whole(self) -> Plan:
        """The plan of all trials that the study is expected to need, as if what is open were known."""
        return replace(self, trials=self.expected(), assumed={})

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run or to decide."""
        return not self.open_choices and not self.exploring and len(self.finished) == len(self.trials)

    def expected(self) -> dict[str, PlannedTrial]:
        """All trials that the study is expected to need, parents first."""
        return {**self.trials, **self.assumed}


class Planner:
    """Costs trials, each kind of trial once: trials that differ in seeds take the same."""

    def __init__(self, study: Study, images: Images) -> None:
        self.study, self.images = study, images
        self.trials: dict[str, PlannedTrial] = {}
        self._like: dict[tuple[object, ...], PlannedTrial] = {}
        self._kinds: dict[str | None, tuple[object, ...]] = {None: ()}

    def add(self, id: str, spec: TrialSpec, after: tuple[str, ...] = ()) -> PlannedTrial:
        """Cost a trial whose parent was added before."""
        kind = (spec.architecture, builtins.id(spec.settings), spec.dev, *self._kinds[spec.parent])
        self._kinds[id] = kind
        if kind not in self._like:
            self._like[kind] = planned_trial(id, spec, self.study.execution, self.images, self.trials)
        self.trials[id] = replace(self._like[kind], id=id, spec=spec, after=after)
        check_number(len(self.trials))
        return self.trials[id]


def make_plan(study: Study, images: Images, finished: Iterable[str] = (), evidence: Evidence | None = None) -> Plan:
    """Expand, merge and cost a study, as far as `evidence` decides what it leaves open.

    Raises:
        ValueError: a combination that cannot be run, named with the trial that it belongs to.
    """
    return plan_of(expand(study, evidence, images.labelled), Planner(study, images), finished)


def plan_of(expansion: Expansion, planner: Planner, finished: Iterable[str]) -> Plan:
    """The plan of an expansion; its trials are added to the planner."""
    for id, spec in expansion.specs.items():
        if id not in planner.trials:
            planner.add(id, spec)
    trials = dict(planner.trials)
    done = frozenset(set(finished) & set(trials))
    study, images, evidence = planner.study, planner.images, expansion.evidence
    exploring = evidence.exploring(study, images.labelled)
    if not expansion.choices:
        return Plan(study, expansion.cells, expansion.naive, trials, done, exploring=exploring)
    whole = expand(study, Assumed(evidence), images.labelled)
    for choice in whole.choices.values():
        if choice.search is not None:
            check_space(choice, whole.maker, lambda spec: check_training(spec.stage, spec, study.execution, images))
    assumed = _assumed(whole, Planner(study, images), trials)
    still_open = tuple(choice for choice in expansion.choices.values() if evidence.decide(choice) is None)
    return Plan(study, expansion.cells, whole.naive, trials, done, assumed, still_open)


def _assumed(whole: Expansion, planner: Planner, known: Mapping[str, PlannedTrial]) -> dict[str, PlannedTrial]:
    """Trials beyond those known, each after those that measure the options of the choices that it rests on."""
    found: dict[str, PlannedTrial] = {}
    for id, spec in whole.specs.items():
        after: list[str] = []
        for choice in [decision.choice for decision in whole.decisions.get(id, ()) if decision.assumed]:
            after += [other for option in choice.options for other in option.trials]
            for sample, base in _samples_to_come(choice).items():
                if sample not in found:
                    found[sample] = planner.add(sample, base)
                after.append(sample)
        planned = planner.add(id, spec, tuple(after))
        if id not in known:
            found[id] = planned
    return found


def _samples_to_come(choice: Choice) -> dict[str, TrialSpec]:
    """Stand-ins for the trials that a search will sample, by names of their own; none where its budget is in hours."""
    most = None if choice.search is None else choice.search.most_trials
    return {
        f"{choice.id}-sample{number + 1}-dev{fold + 1}": spec
        for number in range(len(choice.options), most or 0)
        for fold, spec in enumerate(choice.base)
    }


def planned_trial(
    id: str, spec: TrialSpec, execution: Execution, images: Images, trials: dict[str, PlannedTrial]
) -> PlannedTrial:
    """A trial with what it takes; `trials` holds its ancestors.

    Raises:
        ValueError: it cannot be run, named by its id.
    """
    check_training(id, spec, execution, images)
    optimization, rows = spec.settings.optimization, training_rows(spec, images)
    steps = total_steps(rows, optimization.epochs, optimization.global_batch_size)
    return PlannedTrial(
        id=id,
        spec=spec,
        workers=execution.workers_of(spec.stage, spec.architecture),
        rows=rows,
        steps=steps,
        parameters=parse_architecture(spec.architecture).parameters(spec.data.image_size),
        train_flops=train_flops(spec, steps, rows, trials),
    )


def check_training(id: str, spec: TrialSpec, execution: Execution, images: Images) -> None:
    """Refuse a trial that cannot be run: a batch that cannot be shared, a warm-up longer than the training."""
    rows = training_rows(spec, images)
    check_batch(id, spec, execution.workers_of(spec.stage, spec.architecture), rows)
    try:
        learning_rate_at(0, rows=rows, optimization=spec.settings.optimization)
    except ValueError as error:
        raise ValueError(f"{id}: {error}") from None


def training_rows(spec: TrialSpec, images: Images) -> int:
    """Number of images that one epoch of a trial passes over, without those that it holds out."""
    dev = spec.dev
    held_out = 0 if dev is None else len(held_out_rows(images.labelled(dev.label_fraction), dev.folds, dev.fold))
    return _rows_read(spec.settings, images) - held_out


def _rows_read(settings: Settings, images: Images) -> int:
    if isinstance(settings, PretrainSettings):
        return images.train_images
    if isinstance(settings, FinetuneSettings | LinearSettings | SupervisedSettings):
        return images.labelled(settings.label_fraction)
    if isinstance(settings, DistillSettings):
        match settings.images:
            case "all":
                return images.train_images
            case "labelled":
                assert settings.label_fraction is not None
                return images.labelled(settings.label_fraction)
            case _:
                assert_never(settings.images)
    assert_never(settings)


@lru_cache
def forward_flops_of(name: str, image_size: int, classes: int, head_depth: int, head_layers: int) -> float:
    """Operations of one image's forward pass: encoder, projection layers, linear layer (if `classes`)."""
    architecture = parse_architecture(name)
    whole_head = 0 < head_layers == head_depth
    width = PROJECTION_DIM if whole_head else architecture.feature_dim
    head = head_flops(architecture, head_depth, head_layers) if head_layers else 0
    return architecture.forward_flops(image_size) + head + 2 * width * classes


def train_flops(spec: TrialSpec, steps: int, rows: int, trials: dict[str, PlannedTrial]) -> float:
    """Operations of a training; a backward pass costs two forward passes, micro-batches another forward pass."""
    settings, size, classes = spec.settings, spec.data.image_size, spec.data.classes
    seen = steps * settings.optimization.global_batch_size
    passes = 3 if micro_batches(spec) == 1 else 4

    def spec_of(id: str) -> TrialSpec:
        return trials[id].spec

    if isinstance(settings, PretrainSettings):
        depth, momentum_encoder = settings.head_depth, settings.memory.decay > 0
        return seen * 2 * (passes + momentum_encoder) * forward_flops_of(spec.architecture, size, 0, depth, depth)
    if isinstance(settings, FinetuneSettings):
        return seen * passes * forward_flops_of(spec.architecture, size, classes, *head_of(spec, spec_of))
    if isinstance(settings, LinearSettings):
        features = rows * forward_flops_of(spec.architecture, size, 0, 0, 0)
        return features + seen * 3 * 2 * parse_architecture(spec.architecture).feature_dim * classes
    from_scratch = seen * passes * forward_flops_of(spec.architecture, size, classes, 0, 0)
    if isinstance(settings, SupervisedSettings):
        return from_scratch
    if isinstance(settings, DistillSettings):
        assert spec.parent is not None
        teacher = spec_of(spec.parent)
        return from_scratch + seen * forward_flops_of(teacher.architecture, size, classes, *head_of(teacher, spec_of))
    assert_never(settings)
