"""The record: the immutable result of one finished trial, as a schema; `reports.stored` reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    field_validator,
    model_validator,
)

from reports.quantities import Amount, Count, Duration, Moment, Number, TrialId, check_settings

RATES = (
    "top1",
    "top5",
    "dev_top1",
    "dev_top5",
    "knn_top1",
    "contrastive_accuracy",
)  # metrics that are shares of images, in [0, 1]
STATED_BY_RUNS = (
    *("spec.seed", "model.parameters", "cost.wall_seconds", "cost.device_seconds", "cost.sessions"),
    *("resources", "environment", "started_at", "finished_at"),
)
"""Fields of a record that only a paper's may leave out (null)."""

OF_LABELS = ("linear", "finetune", "supervised")
"""Stages whose trials read labels and say of which share of them."""

Stage = Literal["pretrain", "linear", "finetune", "supervised", "distill"]


class RecordPart(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataReference(BaseModel):
    """Which data set a trial asked for; keys besides these two are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    image_size: Count


class RecordedDevSplit(RecordPart):
    """Labelled training images that a trial held out, and was evaluated on instead of the test split."""

    label_fraction: Amount
    folds: Count
    fold: Count


class RecordedSpec(RecordPart):
    """Everything that determines a result; `settings` are the stage's own, `parent` is the id of the trial it builds
    on.

    `seed` is null where a paper does not state it. A trial with a `dev` split was run to choose settings by: it has no
    result on the test split.
    """

    protocol: Count
    stage: Stage
    data: DataReference
    architecture: Annotated[str, Field(pattern=r"\S")]
    seed: Count | None
    parent: TrialId | None
    dev: RecordedDevSplit | None = None
    settings: dict[str, JsonValue]

    @model_validator(mode="after")
    def _settings_of_a_stage(self) -> RecordedSpec:
        check_settings(self.settings, reads_labels=self.stage in OF_LABELS)
        return self


class Candidate(RecordPart):
    """Settings among which was chosen: what they change, the trials on held-out images that measured them, and their
    mean accuracy (null: a trial failed or was stopped early)."""

    changes: dict[str, bool | int | float | str]
    dev_top1: Number | None
    trials: tuple[TrialId, ...]


class Selection(RecordPart):
    """A choice on which a trial rests: what was chosen at which stage, by which metric, among what."""

    choice: str
    stage: Stage
    by: Literal["dev_top1"]
    chosen: dict[str, bool | int | float | str]
    among: tuple[Candidate, ...]

    @model_validator(mode="after")
    def _one_of_the_candidates(self) -> Selection:
        if not any(candidate.changes == self.chosen for candidate in self.among):
            raise ValueError(f"{self.chosen} was chosen; expected one of the candidates in `among`")
        return self


class ModelSize(RecordPart):
    """Parameters as the paper's Table 1 counts them (encoder with batch-norm statistics), and all that were trained
    (null where a paper does not state them). `sha256` is that of the trained model's file (null: an older record).
    """

    encoder_parameters: Annotated[int, Strict(), Field(ge=1, lt=2**63)]
    parameters: Count | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Cost(RecordPart):
    """Seconds, images seen, floating-point operations of training, and the number of processes that it took.

    `device_seconds` are those of all workers, each counted once, also those that share a GPU. Seconds and processes are
    null where a paper does not state them. `planned_device_seconds` is what the launch that ended with this record had
    estimated (null: nothing told it, or an older record).
    """

    wall_seconds: Amount | None
    device_seconds: Amount | None
    images: Count
    train_flops: Amount
    sessions: Count | None
    planned_device_seconds: Amount | None = None


class Resources(RecordPart):
    """What a trial ran on, and the two choices of its execution that change the rounding (null: not noted).

    `node_type` is the entry of the price table at which the node was rented, rank 0's where the trial ended (null: not
    noted, as on machines without a label). Of a trial that was continued on nodes of another type, `seconds_on` are the
    wall seconds on each ("": not noted). `threads` are each worker's on its CPU. A trial that was continued with other
    numbers of workers or threads is the undisturbed one's up to rounding, or, streamed by other workers, up to the rows
    of an epoch; `earlier_layouts` are the workers and threads that it had before.
    """

    workers: Count
    per_worker: dict[str, Amount]
    device: str
    tf32: bool | None = None
    channels_last: bool | None = None
    node_type: str | None = None
    seconds_on: Annotated[dict[str, Duration], Field(min_length=2)] | None = None
    threads: Count | None = None
    earlier_layouts: tuple[tuple[Count, Count], ...] | None = None


class DataUsed(RecordPart):
    """`labelled_images` are the rows whose labels were read; `subset_hash` is the sha256 of exactly these rows' ids and
    labels: pairs of int64, little-endian, in the order of the ids (null: none).
    """

    fingerprint: str
    train_images: Count
    labelled_images: Count
    test_images: Count
    subset_hash: str | None


class Environment(RecordPart):
    commit: str
    dirty: bool
    versions: dict[str, str]
    host: str
    python: str


class Record(RecordPart):
    """Result of one finished trial. Rates in `metrics` (top1, top5, ...) are in [0, 1]; `history` has one row a
    logged step.

    A paper's result (`source` "paper") may leave out what papers do not state: seed, trained parameters, seconds,
    processes, resources, environment and times are then null. A run states all of them. `selections` are the choices
    that were made, on held-out images, before a trial's settings and parents were known.
    """

    format: Literal[1]
    id: TrialId
    study: str
    source: Literal["run", "paper"]
    spec: RecordedSpec
    metrics: dict[str, Number]
    history: tuple[dict[str, Number], ...]
    model: ModelSize
    cost: Cost
    resources: Resources | None
    data: DataUsed
    environment: Environment | None
    started_at: Moment | None
    finished_at: Moment | None
    selections: tuple[Selection, ...] = ()

    @model_validator(mode="after")
    def _a_run_states_everything(self) -> Record:
        missing = [name for name in STATED_BY_RUNS if attrgetter(name)(self) is None]
        if self.source == "run" and missing:
            raise ValueError(f"a run's record leaves out {', '.join(missing)}; only a paper's may")
        return self

    @model_validator(mode="after")
    def _no_test_images(self) -> Record:
        if self.spec.dev is not None and "top1" in self.metrics:
            raise ValueError("top1 beside spec.dev; expected dev_top1 alone: what is chosen by sees no test image")
        return self

    @model_validator(mode="after")
    def _labels_were_read(self) -> Record:
        if self.spec.settings.get("label_fraction") is not None and self.data.labelled_images == 0:
            raise ValueError(
                "labelled_images is 0 beside a label_fraction; expected the number of labels that were read"
            )
        return self

    @field_validator("metrics")
    @classmethod
    def _rates(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name in RATES:
            if not 0 <= metrics.get(name, 0) <= 1:
                raise ValueError(f"{name} is {metrics[name]}; expected a share between 0 and 1, not a percentage")
        return metrics


class Failure(RecordPart):
    """Why a trial has no record yet: its last error, where and when, in which launch, and how often it was tried.

    `launch` is when that began, by its own clock: the clock of `failed_at` may be another.
    """

    id: TrialId
    error_type: str
    message: str
    traceback: str
    host: str
    failed_at: Moment
    attempts: Count
    launch: str = ""


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and why."""

    path: str
    reason: str
