from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trials
from trainables.architecture import parse_architecture
from trainables.classifier import ModelSpec
from trainables.context import Context, M
from trainables.explain import Part, parts
from trainables.spec import STAGES, Memory, Settings, Stage
from trainables.stages import run_stage

SMALLEST = parse_architecture("r10w0.0625")
DECAY = 0.01
TEACHER = ModelSpec("r14w0.0625", 8, 10, 3, 2)


def found_in(settings: Settings, teacher: ModelSpec | None = None) -> list[Part]:
    return parts(SMALLEST, 8, 10, settings, 3, teacher)


def choose(stage: Stage, optimizer: str = "lars", **changes: Any) -> Settings:
    return trials.settings(stage, {"optimizer": optimizer, "weight_decay": DECAY}, **changes)


ENCODER, LAYER, LAST = SMALLEST.trainable_parameters(8), 32 * 32 + 2 * 32, 32 * 128 + 128
LOGITS = 32 * 10 + 10


@pytest.mark.parametrize(
    ("stage", "changes", "expected"),
    [
        ("pretrain", {}, {"encoder": ENCODER, "head": 2 * LAYER + LAST, "probe": LOGITS}),
        (
            "pretrain",
            {"memory": Memory(decay=0.9)},
            {
                "encoder": ENCODER,
                "head": 2 * LAYER + LAST,
                "probe": LOGITS,
                "momentum": ENCODER + 2 * LAYER + LAST,
            },
        ),
        ("linear", {}, {"encoder": ENCODER, "classifier": LOGITS}),
        ("finetune", {"head_layer": 0}, {"encoder": ENCODER, "classifier": LOGITS}),
        ("finetune", {"head_layer": 2}, {"encoder": ENCODER, "head": 2 * LAYER, "classifier": LOGITS}),
        (
            "finetune",
            {"head_layer": 3},
            {"encoder": ENCODER, "head": 2 * LAYER + LAST, "classifier": 128 * 10 + 10},
        ),
        ("supervised", {}, {"encoder": ENCODER, "classifier": LOGITS}),
        (
            "distill",
            {},
            {
                "student's encoder": ENCODER,
                "student's classifier": LOGITS,
                "teacher's encoder": parse_architecture(TEACHER.architecture).trainable_parameters(8),
                "teacher's head": 2 * (128 * 128 + 2 * 128),
                "teacher's classifier": 128 * 10 + 10,
            },
        ),
    ],
)
def test_parts_add_up_to_the_networks(stage: Stage, changes: dict[str, Any], expected: dict[str, int]) -> None:
    sums = dict.fromkeys(expected, 0)
    for part in found_in(choose(stage, **changes), TEACHER if stage == "distill" else None):
        [network] = [name for name in expected if part.network.startswith(name)]
        sums[network] += part.parameters
    assert sums == expected
    assert SMALLEST.feature_dim == 32, "LAYER and LAST say so"


# Trained, decayed, and with a trust ratio. LARS leaves biases and batch norms alone, and the linear classifier on top
# is decayed (its bias is not) but takes plain steps; in distillation it has a trust ratio too. Plain SGD decays all but
# batch norm.
TRAINED = {"kernels": (True, DECAY, True), "batch norm": (True, 0.0, False)}
ON_TOP = {"kernels": (True, DECAY, False), "biases": (True, 0.0, False)}
SCALED_ON_TOP = {"kernels": (True, DECAY, True), "biases": (True, 0.0, False)}
SGD = {"kernels": (True, DECAY, False), "batch norm": (True, 0.0, False)}
SGD_ON_TOP = {"kernels": (True, DECAY, False), "biases": (True, DECAY, False)}
FROZEN = {"kernels": (False, 0.0, False), "batch norm": (False, 0.0, False)}
FROZEN_ON_TOP = {"kernels": (False, 0.0, False), "biases": (False, 0.0, False)}
HEAD = {f"head layer {number}": TRAINED for number in (1, 2, 3)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (choose("pretrain"), {"encoder": TRAINED, **HEAD, "probe": ON_TOP}),
        (
            choose("pretrain", memory=Memory(decay=0.9)),
            {"encoder": TRAINED, **HEAD, "probe": ON_TOP, "momentum encoder and head": FROZEN},
        ),
        (
            choose("finetune", head_layer=2),
            {"encoder": TRAINED, "head layer 1": TRAINED, "head layer 2": TRAINED, "classifier": ON_TOP},
        ),
        (
            choose("finetune", head_layer=2, kept_head="frozen"),
            {"encoder": TRAINED, "head layer 1": FROZEN, "head layer 2": FROZEN, "classifier": ON_TOP},
        ),
        (choose("linear"), {"encoder": FROZEN, "classifier": ON_TOP}),
        (choose("linear", "sgd"), {"encoder": FROZEN, "classifier": SGD_ON_TOP}),
        (choose("supervised"), {"encoder": TRAINED, "classifier": ON_TOP}),
        (choose("supervised", "sgd"), {"encoder": SGD, "classifier": SGD_ON_TOP}),
        (
            choose("distill"),
            {
                "student's encoder": TRAINED,
                "student's classifier": SCALED_ON_TOP,
                "teacher's encoder": FROZEN,
                "teacher's head layer 1": FROZEN,
                "teacher's head layer 2": FROZEN,
                "teacher's classifier": FROZEN_ON_TOP,
            },
        ),
    ],
)
def test_parts_are_trained_decayed_and_scaled_as_specified(settings: Settings, expected: dict[str, Any]) -> None:
    described: dict[str, dict[str, tuple[bool, float, bool]]] = {}
    for part in found_in(settings, TEACHER if any("teacher" in name for name in expected) else None):
        described.setdefault(part.network, {})[part.kind] = (part.trained, part.weight_decay, part.trust_ratio)
    assert described == expected


def test_layer_wise_decay_and_a_transformers_parts_are_described() -> None:
    chosen = trials.settings(
        "finetune", {"optimizer": "adamw", "weight_decay": DECAY, "layer_decay": 0.5}, head_layer=1
    )
    found = {(part.network, part.kind): part for part in parts(parse_architecture("vit_ti4"), 8, 10, chosen, 3, None)}
    decays = {kind: part.weight_decay for (network, kind), part in found.items() if network == "encoder"}
    assert decays == {"kernels": DECAY, "biases": 0.0, "layer norm": 0.0, "embeddings": 0.0}
    assert found["encoder", "embeddings"].rate_scales == (0.5**13, 0.5**13)
    assert found["encoder", "layer norm"].rate_scales == (0.5**12, 0.5)
    assert found["head layer 1", "batch norm"].rate_scales == found["classifier", "kernels"].rate_scales == (1.0, 1.0)
    assert not any(part.trust_ratio for part in found.values())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (choose("pretrain"), {"encoder": "global batch; biased moving variance"}),
        (
            choose("pretrain", memory=Memory(decay=0.9, key_batch_norm="moving"), moving_variance="unbiased"),
            {"encoder": "global batch; unbiased moving variance", "momentum encoder and head": "moving"},
        ),
        (
            choose("pretrain", memory=Memory(decay=0.9), micro_batches=4),
            {"encoder": "each of 4 micro-batches; biased", "momentum encoder and head": "each of 4 micro-batches"},
        ),
        (choose("linear"), {"encoder": "moving"}),
        (choose("finetune", kept_head="frozen"), {"head layer 1": "global batch; biased moving variance"}),
        (choose("distill"), {"student's encoder": "global batch", "teacher's encoder": "moving"}),
    ],
)
def test_moments_of_batch_norm_are_named(settings: Settings, expected: dict[str, str]) -> None:
    found = found_in(settings, TEACHER)
    moments = {part.network: part.moments for part in found if part.kind == "batch norm"}
    assert all(moments[network].startswith(text) for network, text in expected.items())
    assert not any(part.moments for part in found if part.kind != "batch norm")


@dataclass
class Watching(Context):
    """Keeps every network that a trial places on its device, and its weights at that time."""

    placed: list[tuple[nn.Module, dict[str, Tensor]]] = field(default_factory=list)

    def place(self, module: M, dtype: torch.dtype) -> M:
        placed = super().place(module, dtype)
        if not any(placed is known for known, _ in self.placed):
            before = {name: parameter.detach().clone() for name, parameter in placed.named_parameters()}
            self.placed.append((placed, before))
        return placed


def changes_of(module: nn.Module, before: dict[str, Tensor], names: dict[str, str]) -> dict[tuple[str, str], set[bool]]:
    """By network and kind, whether its tensors are others than before; `names` are networks by how parameters begin."""
    changes: dict[tuple[str, str], set[bool]] = {}
    buffers = dict(module.named_buffers())
    for (name, parameter), old in zip(module.named_parameters(), before.values(), strict=True):
        network = next(network for prefix, network in names.items() if name.startswith(prefix))
        last = name.rpartition(".")[2]
        kind = "biases" if last == "bias" else "kernels"
        kind = "batch norm" if f"{name.removesuffix(last)}running_mean" in buffers else kind
        changes.setdefault((network, kind), set()).add(not torch.equal(parameter, old))
    return changes


LAYERS = {f"head.layers.{index}.": f"head layer {index + 1}" for index in range(3)}
NAMES: dict[Stage, list[dict[str, str]]] = {
    "pretrain": [{"encoder.": "encoder", **LAYERS, "probe.": "probe"}],
    "linear": [{"": "encoder"}, {"": "classifier"}],
    "finetune": [{"encoder.": "encoder", **LAYERS, "classifier.": "classifier"}],
    "supervised": [{"encoder.": "encoder", "classifier.": "classifier"}],
    "distill": [
        {prefix: f"{owner}'s {name}" for prefix, name in {"encoder.": "encoder", **LAYERS, "": "classifier"}.items()}
        for owner in ("teacher", "student")
    ],
}
CASES: list[tuple[Stage, dict[str, Any]]] = [
    *((stage, {}) for stage in STAGES),
    ("finetune", {"kept_head": "frozen", "head_layer": 2}),
]


@pytest.mark.parametrize(("stage", "changes"), CASES)
def test_exactly_the_trained_parts_change_in_a_real_trial(
    shards: str, parents: Path, tmp_path: Path, stage: Stage, changes: dict[str, Any]
) -> None:
    precise = {"weight_decay": DECAY, "precision": "float64"}  # the first steps of some norms are lost in float32
    chosen = trials.settings(stage, precise, **changes)
    context = Watching(str(tmp_path))
    run_stage(stage, trials.assignment(shards, chosen, trials.parent_of(stage, parents)), context)
    changed: dict[tuple[str, str], set[bool]] = {}
    for (module, before), names in zip(context.placed, NAMES[stage], strict=True):
        changed |= changes_of(module, before, names)
    described = found_in(chosen, ModelSpec("r10w0.0625", 8, 10, 3, 1) if stage == "distill" else None)
    assert changed == {(part.network, part.kind): {part.trained} for part in described}
