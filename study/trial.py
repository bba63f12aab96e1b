"""One trial: a frozen specification of everything that changes its result, and the id made from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from pydantic import ConfigDict, Field, ValidationError

from study.config import Data
from study.problems import explain_errors
from trainables.ranges import Seed
from trainables.spec import (
    IDENTITY,
    PROTOCOL,
    DevSplit,
    DistillSettings,
    FinetuneSettings,
    LinearSettings,
    PretrainSettings,
    Resize,
    Settings,
    Spec,
    Stage,
    SupervisedSettings,
    settings_of,
)


class DataIdentity(Spec):
    """What of the data changes a result: which images (by name), which labels are known first, size and resizing."""

    name: str
    image_size: int
    resize: Resize
    classes: int
    label_seed: int
    train_limit: int | None
    test_limit: int | None

    @classmethod
    def of(cls, data: Data) -> DataIdentity:
        return cls(**{field: getattr(data, field) for field in cls.model_fields})

    def folder(self) -> str:
        """Name of the shards' folder in storage: other ranks or limits of the same images are other shards."""
        if self.label_seed == 0 and self.train_limit is None and self.test_limit is None:
            return self.name
        key = json.dumps([self.label_seed, self.train_limit, self.test_limit])
        return f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


class TrialSpec(Spec):
    """Identity of a trial. `parent` is the id of the trial whose checkpoint this one starts from or is taught by.

    `dev`: the labelled images that it holds out and is evaluated on, instead of the test split.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, revalidate_instances="never"
    )

    protocol: int = Field(default=PROTOCOL, ge=1)
    stage: Stage
    data: DataIdentity
    architecture: str
    seed: Seed
    parent: str | None
    dev: DevSplit | None = None
    settings: Settings

    @property
    def labels_read(self) -> float | None:
        """The label fraction of which a trial reads labels, to train on or to hold out; None if it reads none.

        A pretraining's probe reads what labels there are, which is no part of its planned subset.
        """
        own: float | None = getattr(self.settings, "label_fraction", None)
        return own if self.dev is None else max(own or 0.0, self.dev.label_fraction)

    def plain(self) -> dict[str, Any]:
        """The specification as JSON types, defaults written out but for `NEWER_SETTINGS`."""
        return self.model_dump(mode="json", context=IDENTITY)

    def trial_id(self) -> str:
        """Readable slug and eight hexadecimal digits of the SHA-256 of the canonical JSON."""
        digest = hashlib.sha256(self.canonical().encode()).hexdigest()
        return "-".join([*self._slug(), digest[:8]])

    def canonical(self) -> str:
        """`canonical_json` of `plain()`; what many trials share (their data, their settings) is written once."""
        fields = vars(self)
        return "{" + ",".join(f'"{name}":{_canonical(fields[name])}' for name in _FIELDS) + "}"

    def _slug(self) -> list[str]:
        settings = vars(self.settings)
        words: list[str] = [self.stage, self.architecture]
        fraction = settings.get("label_fraction")
        if fraction is not None:
            words.append(f"{fraction * 100:g}pct")
        for letter, field in (("d", "head_depth"), ("h", "head_layer")):
            if field in settings:
                words.append(f"{letter}{settings[field]}")
        match self.stage:
            case "distill":
                words.append(f"t{settings['temperature']:g}")
            case "pretrain" | "linear" | "finetune" | "supervised":
                pass
            case _:
                assert_never(self.stage)
        words.append(f"s{self.seed}")
        if self.dev is not None:
            words.append(f"dev{self.dev.fold + 1}of{self.dev.folds}")
        return words


_FIELDS = sorted(TrialSpec.model_fields)
_WRITTEN: dict[int, tuple[Spec, str]] = {}  # the canonical JSON of a specification's parts, each kept alive beside it
MOST_WRITTEN = 4096


def _canonical(value: Any) -> str:
    return _canonical_spec(value) if isinstance(value, Spec) else _ENCODER.encode(value)


def _canonical_spec(spec: Spec) -> str:
    """By identity, not equality: -0.0 equals 0.0 and is written otherwise."""
    known = _WRITTEN.get(id(spec))
    if known is None:
        if len(_WRITTEN) >= MOST_WRITTEN:
            _WRITTEN.clear()
        known = _WRITTEN[id(spec)] = spec, canonical_json(spec.model_dump(mode="json", context=IDENTITY))
    return known[1]


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(plain: Mapping[str, Any]) -> str:
    """JSON that is the same for equal values: keys sorted, no spaces, ASCII only."""
    return _ENCODER.encode(plain)


def head_of(spec: TrialSpec, ancestor: Callable[[str], TrialSpec]) -> tuple[int, int]:
    """Depth of the projection head that a trial's classifier was cut from, and how many of its layers it keeps.

    Both are 0 but for fine-tuned models; `ancestor` gives the specification of a trial's parent by its id.
    """
    settings = spec.settings
    if isinstance(settings, PretrainSettings | LinearSettings | SupervisedSettings | DistillSettings):
        return 0, 0
    if isinstance(settings, FinetuneSettings):
        assert spec.parent is not None
        pretrained = ancestor(spec.parent).settings
        assert isinstance(pretrained, PretrainSettings)
        return pretrained.head_depth, settings.head_layer
    assert_never(settings)


def parse_trial(plain: Mapping[str, Any]) -> TrialSpec:
    """Type a specification that crossed a process line or came from a record; strict, the settings by their stage.

    Raises:
        ValueError: a key or type that this version of the code does not know.
    """
    kind = settings_of(plain.get("stage", ""))
    try:
        settings = kind.model_validate(plain["settings"])
        return TrialSpec.model_validate({**plain, "settings": settings})
    except ValidationError as error:
        raise ValueError("trial specification: " + "; ".join(explain_errors(error, TrialSpec))) from None
