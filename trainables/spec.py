"""What determines the result of one training: the typed, frozen settings of every stage.

Pure data without torch, so that a plan of thousands of trials is made in a second. Everything here changes a result and
enters a trial's id; how a trial is executed (workers, devices, checkpoint interval) is `study.config.Execution`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from trainables.ranges import MOST_EPOCHS, BatchSize, Epochs, Folds, LabelFraction, LearningRate, Penalty, Temperature

Stage = Literal["pretrain", "linear", "finetune", "supervised", "distill"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # parents before children

Resize = Literal["tf1", "tf2"]
"""Which TensorFlow's bicubic resize: that of version 1, with which the published models were trained, or version 2."""

PROTOCOL = 4
"""Raised when the code changes numbers on purpose; tables refuse to mix protocols."""


NEWER_SETTINGS = ("beta2", "layer_decay")
"""Settings of `Optimization` that trials of before do not have: the ids of these must not change by them."""

IDENTITY = object()
"""The context in which a specification is written down as what identifies a trial."""


class Spec(BaseModel):
    """A frozen, strict record: an unknown key or a wrong type is an error, never ignored or converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DevSplit(Spec):
    """Labelled training images held out of one trial, which is then evaluated on them and never on the test split.

    Of the first labelled rows that make up `label_fraction`, the `fold`-th of `folds` equal parts (counted from the
    end) is neither trained on nor otherwise seen. Settings are chosen by such trials.
    """

    label_fraction: LabelFraction
    folds: Folds
    fold: int = Field(ge=0, le=999)

    @model_validator(mode="after")
    def _fold_exists(self) -> DevSplit:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds} does not exist; expected 0 to {self.folds - 1}")
        return self


Optimizer = Literal["lars", "sgd", "adamw"]  # sgd has Nesterov momentum


class Optimization(Spec):
    """Optimizer, durations and learning-rate schedule of one training.

    `epochs` are passes over the rows that the stage trains on; they become steps only in `schedule.total_steps`.
    The peak learning rate is `learning_rate` x sqrt(global_batch_size) ("sqrt"), x global_batch_size / 256 ("linear"),
    or itself ("none"): section 3.1, and the official code.

    `momentum` is AdamW's first beta, `beta2` its second one (Loshchilov and Hutter 2019). `layer_decay` below 1 gives
    lower layers of an encoder smaller learning rates: that times itself for each layer that lies above (Bao et al.
    2022); what stands on the encoder has the whole rate.
    """

    optimizer: Optimizer = "lars"
    learning_rate: LearningRate
    learning_rate_scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: Penalty = 0.0
    global_batch_size: BatchSize
    epochs: Epochs
    warmup_epochs: float = Field(default=0.0, ge=0, le=MOST_EPOCHS)
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    beta2: float = Field(default=0.999, ge=0, lt=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _beta2_has_an_effect(self) -> Optimization:
        if self.optimizer != "adamw" and self.beta2 != Optimization.model_fields["beta2"].default:
            raise ValueError(f"beta2 {self.beta2:g} has no effect with optimizer `{self.optimizer}`; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """As JSON types; in a trial's identity without what is newer than the first ids, where it has its default."""
        fields: dict[str, Any] = plain(self)
        if info.context is IDENTITY:
            for name in NEWER_SETTINGS:
                if fields[name] == Optimization.model_fields[name].default:
                    del fields[name]
        return fields


class Augmentation(Spec):
    """Random views of an image; the defaults are those of fine-tuning and distillation: crop and flip.

    `crop_min_area` is the smallest share of the image that a crop asks for (0.08 in the official code, whose sampler
    never draws less than 0.1); `crop` off resizes the whole image. `color_strength` 0 turns jitter and grayscale off;
    1.0 is ImageNet's pretraining, 0.5 CIFAR's. `auto_augment` is a policy of AutoAugment (Cubuk et al. 2019), applied
    after crop and flip, as in the supervised baselines on few labels (Figure 4).
    """

    crop: bool = True
    crop_min_area: float = Field(default=0.08, gt=0, le=1)
    flip: bool = True
    auto_augment: Literal["none", "imagenet", "cifar10", "svhn"] = "none"
    color_strength: float = Field(default=0.0, ge=0, le=1.25)  # above, a hue shift would leave its range
    blur: bool = False

    @model_validator(mode="after")
    def _area_of_a_crop(self) -> Augmentation:
        if not self.crop and self.crop_min_area != Augmentation.model_fields["crop_min_area"].default:
            raise ValueError(f"crop_min_area {self.crop_min_area:g} has no effect while crop is off; leave it out")
        return self


class PretrainAugmentation(Augmentation):
    """The views of pretraining on ImageNet: crop, flip, color at full strength, and blur (section 3.1).

    A blur over a tenth of the image has one pixel, which changes nothing, below 20 pixels.
    """

    color_strength: float = Field(default=1.0, ge=0, le=1.25)
    blur: bool = True


class Memory(Spec):
    """More contrasting examples than a batch has: a queue of past keys, and a momentum encoder that makes the keys.

    Off by default: with `size` 0 and `decay` 0 the loss is plain NT-Xent. The paper's memory has 65,536 keys and a
    decay of 0.999 (section 3.1); the rest is open in the paper, and chosen here as in MoCo (He et al. 2020) where it
    applies:

    - `decay` is the share of the momentum encoder and its head that stays at each step; 0: there is none, and the keys
      are the encoder's.
    - `batch_keys`: who makes the keys of the current batch, positives included: the momentum encoder, for both views,
      or the encoder itself, through which their gradient then flows, and only past keys are the momentum encoder's.
    - `enqueue`: the keys of both views enter the queue, or those of the first views only.
    - `key_batch_norm`: the momentum encoder normalizes by its batch's moments or by moving ones.
    """

    size: int = Field(default=0, ge=0, le=1_000_000_000)
    decay: float = Field(default=0.0, ge=0, lt=1)
    batch_keys: Literal["momentum", "encoder"] = "momentum"
    enqueue: Literal["both", "first"] = "both"
    key_batch_norm: Literal["batch", "moving"] = "batch"

    @model_validator(mode="after")
    def _choices_have_an_effect(self) -> Memory:
        if not self.size and self.enqueue != "both":
            raise ValueError(
                f"enqueue `{self.enqueue}` has no effect without a queue; set size above 0 or leave it out"
            )
        if not self.decay and (self.batch_keys, self.key_batch_norm) != ("momentum", "batch"):
            raise ValueError(
                f"batch_keys `{self.batch_keys}` and key_batch_norm `{self.key_batch_norm}` have no effect without a "
                "momentum encoder; set decay above 0 or leave them out"
            )
        if self.decay and not self.size and self.batch_keys == "encoder":
            raise ValueError(
                f"decay {self.decay:g} asks for a momentum encoder, but batch_keys `encoder` and size 0 leave it no "
                "keys to make; set decay to 0, batch_keys to `momentum`, or size above 0"
            )
        return self


class EncoderRecipe(Spec):
    """What all stages share that train an encoder.

    `micro_batches` cuts every global batch into so many parts that pass through the network one after the other, so
    that a device holds a part of the activations only; the loss, its negatives included, is that of the whole batch.
    Each part is normalized by its own moments in batch norm: with more than one, results change as those of batch
    norm over smaller batches do. Costs a second forward pass. `moving_variance` is what batch norm keeps for
    evaluation: the biased variance (official code with global batch norm) or the unbiased one (its local batch norm,
    and torch's).
    """

    optimization: Optimization
    augmentation: Augmentation = Augmentation()
    micro_batches: BatchSize = 1
    moving_variance: Literal["biased", "unbiased"] = "biased"


class PretrainRecipe(EncoderRecipe):
    """SimCLRv2 pretraining, section 3.1: NT-Xent at `temperature` on two views, with an online linear probe."""

    augmentation: PretrainAugmentation = PretrainAugmentation()
    temperature: Temperature = 0.1
    memory: Memory = Memory()


class PretrainSettings(PretrainRecipe):
    head_depth: int = Field(ge=2, le=4)  # layers of the projection head


class FinetuneRecipe(EncoderRecipe):
    """Fine-tuning of encoder and the first `head_layer` layers of the head on labelled images, section 2.

    The paper reads as if the kept layers of the head are trained with the encoder, and TensorFlow 2's official code
    trains them; the TensorFlow 1 code leaves their parameters as pretrained (`frozen`), batch norm working on batches.
    """

    kept_head: Literal["trained", "frozen"] = "trained"


class FinetuneSettings(FinetuneRecipe):
    label_fraction: LabelFraction
    head_layer: int = Field(ge=0, le=4)


class LinearRecipe(Spec):
    """A linear classifier on the frozen encoder's features of uncropped images, computed once and in full width."""

    optimization: Optimization

    @model_validator(mode="after")
    def _no_encoder_is_trained(self) -> LinearRecipe:
        decay = self.optimization.layer_decay
        if decay != 1:
            raise ValueError(
                f"layer_decay {decay:g} has no effect where no layer of the encoder is trained; leave it out"
            )
        return self


class LinearSettings(LinearRecipe):
    label_fraction: LabelFraction


class SupervisedRecipe(EncoderRecipe):
    """The baseline: encoder and linear classifier from scratch on the labelled images.

    Plain with all labels; with few, the paper's baselines have AutoAugment and label smoothing (Figure 4).
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class SupervisedSettings(SupervisedRecipe):
    label_fraction: LabelFraction


class DistillRecipe(EncoderRecipe):
    """Distillation into a student from scratch: Eq. 2 (`distillation_weight` 1) and Eq. 3 (below 1).

    `images`: learn from every training image, or from the labelled ones only (Table 2).
    """

    distillation_weight: float = Field(default=1.0, ge=0, le=1)
    scale_by_temperature_squared: bool = False  # the official code multiplies by T^2; Eq. 2 does not
    images: Literal["all", "labelled"] = "all"


class DistillSettings(DistillRecipe):
    temperature: Temperature
    label_fraction: LabelFraction | None = None  # None: no label is read (Eq. 2 over all images)


Settings = PretrainSettings | FinetuneSettings | LinearSettings | SupervisedSettings | DistillSettings

SETTINGS: dict[Stage, type[Settings]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "linear": LinearSettings,
    "supervised": SupervisedSettings,
    "distill": DistillSettings,
}


def settings_of(stage: str) -> type[Settings]:
    """The type of a stage's settings. Raises ValueError for a stage that there is not."""
    for known, settings in SETTINGS.items():
        if known == stage:
            return settings
    raise ValueError(f"stage {stage!r} is not one of {', '.join(SETTINGS)}")
