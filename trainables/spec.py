"""What determines the result of one training: the typed, frozen settings of every stage.

Pure data without torch, so that a plan of thousands of trials is made in a second. Everything here changes a result and
enters a trial's id; how a trial is executed (workers, devices, checkpoint interval) is `study.config.Execution`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Stage = Literal["pretrain", "finetune", "linear", "supervised", "distill"]
STAGES: tuple[Stage, ...] = ("pretrain", "linear", "finetune", "supervised", "distill")  # parents before children

PROTOCOL = 1
"""Raised when the code changes numbers on purpose; tables refuse to mix protocols."""


class Spec(BaseModel):
    """A frozen, strict record: an unknown key or a wrong type is an error, never ignored or converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Optimization(Spec):
    """Optimizer, durations and learning-rate schedule of one training.

    `epochs` are passes over the rows that the stage trains on; they become steps only in `schedule.total_steps`.
    The peak learning rate is `learning_rate` x sqrt(global_batch_size) ("sqrt"), x global_batch_size / 256 ("linear"),
    or itself ("none"): section 3.1, and the official code.
    """

    optimizer: Literal["lars", "sgd"] = "lars"  # sgd has Nesterov momentum
    learning_rate: float = Field(gt=0)
    learning_rate_scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    global_batch_size: int = Field(ge=1)
    epochs: int = Field(ge=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    precision: Literal["float32", "bfloat16", "float64"] = "float32"


class Augmentation(Spec):
    """Random views of an image; the defaults are those of fine-tuning and distillation: crop and flip.

    `crop_min_area` is the smallest share of the image that a crop asks for (0.08 in the official code, whose sampler
    never draws less than 0.1); `crop` off resizes the whole image. `color_strength` 0 turns jitter and grayscale off;
    1.0 is ImageNet's pretraining, 0.5 CIFAR's.
    """

    crop: bool = True
    crop_min_area: float = Field(default=0.08, gt=0, le=1)
    flip: bool = True
    color_strength: float = Field(default=0.0, ge=0, le=1.25)  # above, a hue shift would leave its range
    blur: bool = False


class PretrainRecipe(Spec):
    """SimCLRv2 pretraining, section 3.1: NT-Xent at `temperature` on two views, with an online linear probe."""

    optimization: Optimization
    augmentation: Augmentation = Augmentation(color_strength=1.0, blur=True)
    temperature: float = Field(default=0.1, gt=0)


class PretrainSettings(PretrainRecipe):
    head_depth: int = Field(ge=2, le=4)  # layers of the projection head


class FinetuneRecipe(Spec):
    """Fine-tuning of encoder and the first `head_layer` layers of the head on labelled images, section 2."""

    optimization: Optimization
    augmentation: Augmentation = Augmentation()


class FinetuneSettings(FinetuneRecipe):
    label_fraction: float = Field(gt=0, le=1)
    head_layer: int = Field(ge=0, le=4)


class LinearRecipe(Spec):
    """A linear classifier on the frozen encoder's features of uncropped images, computed once."""

    optimization: Optimization


class LinearSettings(LinearRecipe):
    label_fraction: float = Field(gt=0, le=1)


class SupervisedRecipe(Spec):
    """The baseline: encoder and linear classifier from scratch on the labelled images."""

    optimization: Optimization
    augmentation: Augmentation = Augmentation()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class SupervisedSettings(SupervisedRecipe):
    label_fraction: float = Field(gt=0, le=1)


class DistillRecipe(Spec):
    """Distillation into a student from scratch: Eq. 2 (`distillation_weight` 1) and Eq. 3 (below 1).

    `images`: learn from every training image, or from the labelled ones only (Table 2).
    """

    optimization: Optimization
    augmentation: Augmentation = Augmentation()
    distillation_weight: float = Field(default=1.0, ge=0, le=1)
    scale_by_temperature_squared: bool = False  # the official code multiplies by T^2; Eq. 2 does not
    images: Literal["all", "labelled"] = "all"


class DistillSettings(DistillRecipe):
    temperature: float = Field(gt=0)
    label_fraction: float | None = Field(default=None, gt=0, le=1)  # None: no label is read (Eq. 2 over all images)


Settings = PretrainSettings | FinetuneSettings | LinearSettings | SupervisedSettings | DistillSettings

SETTINGS: dict[Stage, type[Settings]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "linear": LinearSettings,
    "supervised": SupervisedSettings,
    "distill": DistillSettings,
}
