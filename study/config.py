"""One study, typed and frozen: what its YAML file may say, and what is refused."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from typing import Any, Literal, assert_never

from pydantic import Field, field_validator, model_validator

from reports.file_name import is_reserved
from reports.message import printable
from reports.plain_scalar import shown
from study.adaptive import Dev, Explore, Scalar, Search, Select
from study.worker_resources import Amount, check_resource
from trainables.architecture import parse_architecture
from trainables.ranges import MOST_AT_ONCE, MOST_CLASSES, MOST_PIXELS, AtOnce, ImageCount, Seed, Temperature
from trainables.spec import (
    STAGES,
    DistillRecipe,
    FinetuneRecipe,
    LinearRecipe,
    PretrainRecipe,
    Resize,
    Spec,
    Stage,
    SupervisedRecipe,
)

NAMED_AXES: dict[str, tuple[type, ...]] = {
    "architecture": (str,),
    "label_fraction": (float, int),
    "head_depth": (int,),
    "head_layer": (int,),
    "temperature": (float, int),
    "seed": (int,),
}

DEFAULT_AXES: dict[str, Scalar] = {"head_depth": 3, "head_layer": 1, "temperature": 0.1, "seed": 0}
"""Values of axes that a grid leaves out: the paper's head (section 3.1), its fine-tuning layer for few labels, its
distillation temperature for a fine-tuned teacher (appendix F)."""

AXES_OF_STAGE: dict[Stage, tuple[str, ...]] = {
    "pretrain": ("architecture", "head_depth", "seed"),
    "linear": ("architecture", "head_depth", "label_fraction", "seed"),
    "finetune": ("architecture", "head_depth", "head_layer", "label_fraction", "seed"),
    "supervised": ("architecture", "label_fraction", "seed"),
    "distill": ("architecture", "head_depth", "head_layer", "label_fraction", "temperature", "seed"),
}
"""The axes that change a stage's result, its parents' included: two cells that agree on them share the trial."""


def parent_of(stage: Stage) -> Stage | None:
    """The stage from whose result a stage starts, or by which it is taught; None: it starts from random weights."""
    match stage:
        case "pretrain" | "supervised":
            return None
        case "linear" | "finetune":
            return "pretrain"
        case "distill":
            return "finetune"
        case _:
            assert_never(stage)


MOST_RULES = 100  # of a stage


_FOLDER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?")


class Data(Spec):
    """The images of a study.

    `source` is a built-in set (`digits`, `cifar10`), a folder of images, of Parquet files or of shards; it says where
    the images are and is no part of a trial's identity. `resize` is whose bicubic resizing makes an image `image_size`
    pixels large, in training and evaluation: TensorFlow 1's, with which the paper's models were trained, or TensorFlow
    2's. `train_images` and `classes` are what the source is expected to hold: a plan counts with them before anything
    is read, and a launch refuses a source that differs.
    """

    name: str
    source: str = Field(min_length=1, max_length=4_096)
    image_size: int = Field(ge=4, le=MOST_PIXELS)
    resize: Resize = "tf1"
    train_images: ImageCount
    classes: int = Field(ge=2, le=MOST_CLASSES)
    label_seed: Seed = 0
    train_limit: ImageCount | None = None
    test_limit: ImageCount | None = None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not _FOLDER.fullmatch(name) or is_reserved(name):
            raise ValueError(
                f"{shown(name)} is to name a folder on every file system: expected 1 to 64 small letters, digits and "
                "._- (a letter or digit first, no dot last), and none of Windows's names of devices"
            )
        return name

    @property
    def limited_train_images(self) -> int:
        """The number of training images after the limit, if there is one."""
        return self.train_images if self.train_limit is None else min(self.train_images, self.train_limit)

    def labelled(self, label_fraction: float) -> int:
        """The expected number of labelled images of a label fraction, if all images have labels."""
        return expected_labels(label_fraction, self.limited_train_images, self.classes)


def expected_labels(label_fraction: float, images: int, classes: int) -> int:
    """The number of labelled images of a label fraction where all images have labels, every class at least one."""
    return max(classes, math.floor(label_fraction * images + 1e-6))  # 0.29 x 100 is 28.99...


class Rule(Spec):
    """Settings that differ for some cells: where every axis in `where` matches, the dotted paths in `set` apply.

    Numbers match by equality, names by shell pattern (`*sk`), a list if any of its entries matches. `architecture` is
    the one that the stage trains: the student in `distill`.
    """

    where: dict[str, Scalar | list[Scalar]]
    set: dict[str, Scalar]


class StageOptions(Spec):
    """What a study says of a stage beside its recipe: settings that differ for some cells, and those left open."""

    when: list[Rule] = Field(default=[], max_length=MOST_RULES)
    select: Select | None = None
    search: Search | None = None

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> StageOptions:
        if self.select is not None and self.search is not None:
            raise ValueError("`select` and `search` exclude each other; write what is selected among as `choices`")
        return self


class PretrainStage(StageOptions, PretrainRecipe):
    pass


class FinetuneStage(StageOptions, FinetuneRecipe):
    pass


class LinearStage(StageOptions, LinearRecipe):
    pass


class SupervisedStage(StageOptions, SupervisedRecipe):
    pass


class DistillStage(StageOptions, DistillRecipe):
    """What is distilled into what.

    `student` is an architecture, or `same` for self-distillation. `teacher` is the cell's fine-tuned model, or that
    model after a self-distillation at `self_temperature` (Table 3 and Figure 6 teach small students so), or the `best`
    of the fine-tuned models of all the study's architectures and head layers with the cell's labels and seed.
    """

    student: str = "same"
    teacher: Literal["finetuned", "self-distilled", "best"] = "finetuned"
    self_temperature: Temperature = 0.1

    @field_validator("student")
    @classmethod
    def _student_exists(cls, student: str) -> str:
        if student != "same":
            parse_architecture(student)
        return student


class Stages(Spec):
    """The stages that a study runs; one that is not named is not run."""

    pretrain: PretrainStage | None = None
    linear: LinearStage | None = None
    finetune: FinetuneStage | None = None
    supervised: SupervisedStage | None = None
    distill: DistillStage | None = None

    @model_validator(mode="after")
    def _parents_present(self) -> Stages:
        for child in self.named():
            parent = parent_of(child)
            if parent is not None and getattr(self, parent) is None:
                raise ValueError(f"stage {child!r} starts from the result of {parent!r}: add {parent!r} to `stages`")
        if not self.named():
            raise ValueError(f"no stage: name at least one of {', '.join(STAGES)}")
        return self

    def named(self) -> tuple[Stage, ...]:
        """The stages present, parents before children."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)


class Execution(Spec):
    """How trials are executed; nothing here changes a result by more than rounding does.

    `tf32` lets GPUs round the factors of float32 convolutions to 10 bits; `channels_last` is how images and kernels lie
    in memory. A pretraining whose features or projections stay or end below an effective rank of `min_effective_rank`
    is stopped, since they no longer tell images apart; with 0 it goes on, also from its last checkpoint. Healthy ones
    have ranks of 10 and more; a batch of n images has one of 2n - 1 at most.
    `workers` is a number, or numbers by architecture pattern (`default`: 1); the stage `linear` always has one.
    `per_worker` are Ray resources of one worker; left out, that is a GPU with its share of its node's cores, or one
    core where there are no GPUs. Trials of one worker may share a GPU, each asking for a part of it.
    `checkpoint_seconds` is the interval of resumable checkpoints.
    `max_workers` caps the workers, hence the GPUs, in flight; without it, the cap is what the cluster may grow to. A
    trial whose node is taken away goes on elsewhere, at most `preemption_retries` times; these are not its failures.
    One whose process is killed, as by the system where memory is short, goes on from its checkpoint at most
    `crash_retries` times in a launch, before what builds on it is skipped.
    """

    workers: int | dict[str, int] = 1
    per_worker: dict[str, Amount] = Field(default={})
    checkpoint_seconds: float = Field(default=120.0, ge=0, le=1e7)
    max_workers: AtOnce | None = None
    preemption_retries: int = Field(default=10, ge=0, le=10_000)
    crash_retries: int = Field(default=2, ge=0, le=10_000)
    tf32: bool = True
    channels_last: bool = True
    min_effective_rank: float = Field(default=1.5, ge=0, le=8)

    @model_validator(mode="after")
    def _workers_have_what_they_need(self) -> Execution:
        counts = list(self.workers.values()) if isinstance(self.workers, dict) else [self.workers]
        if not counts or not all(1 <= count <= MOST_AT_ONCE for count in counts):
            raise ValueError(f"`workers` must be 1 to {MOST_AT_ONCE:,}, got {self.workers}")
        for name in self.per_worker:
            check_resource(name)
        if (gpus := self.per_worker.get("GPU", 1.0)) > 1:
            raise ValueError(
                f"`per_worker` asks for {gpus:g} GPUs, of which a worker uses one: ask for one, and set `workers` to "
                "train on several"
            )
        if gpus < 1 and max(counts) > 1:
            raise ValueError(
                f"`per_worker` asks for {gpus:g} GPUs and `workers` for {max(counts)} in a training: NCCL does not "
                "connect workers that share a GPU, so ask for a whole one"
            )
        return self

    def workers_of(self, stage: Stage, architecture: str) -> int:
        """Workers of a trial: the first matching pattern's, else the default."""
        if not may_have_workers(stage):
            return 1
        if isinstance(self.workers, int):
            return self.workers
        matching = (
            n for pattern, n in self.workers.items() if pattern != "default" and fnmatchcase(architecture, pattern)
        )
        return next(matching, self.workers.get("default", 1))


def may_have_workers(stage: Stage) -> bool:
    """Whether several workers may train a trial of a stage: linear evaluation trains one layer on stored features."""
    match stage:
        case "linear":
            return False
        case "pretrain" | "finetune" | "supervised" | "distill":
            return True
        case _:
            assert_never(stage)


class Grid(Spec):
    """The cartesian product of `axes`; `stages` restricts which stages its cells run (default: all of the study's)."""

    axes: dict[str, list[Any]]
    stages: list[Stage] | None = None

    def values(self, axis: str) -> list[Any]:
        """Values of an axis, its default where the grid leaves it out; KeyError where it has none."""
        return self.axes[axis] if axis in self.axes else [DEFAULT_AXES[axis]]


class Study(Spec):
    """A question being asked: data, grids (their cells are united), stages, execution."""

    name: str = Field(min_length=1, max_length=200)
    question: str = Field(default="", max_length=10_000)
    data: Data
    grid: list[Grid] = Field(min_length=1)
    stages: Stages
    execution: Execution = Execution()
    dev: Dev = Dev()
    explore: Explore | None = None

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.strip() or "\n" in name or printable(name) != name:
            raise ValueError(f"{shown(name)} is to stand in a title: expected one line without control characters")
        return name
