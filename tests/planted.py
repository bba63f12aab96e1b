"""A study with planted effects: records of every stage whose accuracies follow stated rules, with little noise."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any

from reports.records import Record
from synthetic import plain

SIZES = {
    **dict(zip(("r18", "r34", "r50", "r101"), (10**7, 2 * 10**7, 4 * 10**7, 8 * 10**7), strict=True)),
    **dict(zip(("r34sk", "r101sk"), (25 * 10**6, 10**8), strict=True)),
}
SLOPES = {0.01: 0.08, 0.1: 0.05, 1.0: 0.03}  # of fine-tuned top-1 over log10 of parameters
KERNELS = 0.02
BIGGEST = "r101sk"
BIGGEST_HEAD = 0.03


def tenfold(architecture: str) -> float:
    return math.log10(SIZES[architecture] / 10**7)


def kernels(architecture: str) -> float:
    return KERNELS * architecture.endswith("sk")


def head(depth: int, layer: int, fraction: float) -> float:
    """What a head's depth and the layer to fine-tune from add."""
    if layer == 0:
        return -0.01 * (depth == 2)
    return (0.01 if depth == 2 else BIGGEST_HEAD) if fraction < 1 else -0.005


def finetuned(architecture: str, fraction: float) -> float:
    """From the output of a three-layer head's encoder, pretrained with memory."""
    return 0.6 + 0.1 * math.log10(fraction) + SLOPES[fraction] * tenfold(architecture) + kernels(architecture)


def supervised(architecture: str, fraction: float) -> float:
    level = {0.01: 0.2, 0.1: 0.4, 1.0: 0.62}[fraction]
    return level + 0.02 * tenfold(architecture) + kernels(architecture)


def linear(architecture: str) -> float:
    return 0.5 + 0.06 * tenfold(architecture) + kernels(architecture)


def study(seeds: int = 3, noise: float = 0.0005) -> list[Record]:
    """Six architectures, three label fractions; memory on and off; heads of 2 and 3 layers; students of all kinds."""
    rng, records = random.Random(0), []

    def add(name: str, stage: str, model: str, seed: int, parent: str | None, top1: float, **settings: Any) -> str:
        trial_id = f"{stage}-{model}-{name}-s{seed}"
        content = plain(trial_id, stage, model, seed, parent, top1 + rng.gauss(0, noise), **settings)
        content["model"] = {"encoder_parameters": SIZES[model], "parameters": SIZES[model]}
        records.append(Record.model_validate(content))
        return trial_id

    for model, seed in product(SIZES, range(seeds)):
        for depth, memory in ((3, True), (2, True), (3, False)):
            kind, lost = f"d{depth}m{memory:d}", 0.0 if memory else 0.01
            queue = {"size": 65536 * memory, "decay": 0.999 * memory}
            base = add(kind, "pretrain", model, seed, None, 0.5, head_depth=depth, memory=queue)
            add(kind, "linear", model, seed, base, linear(model) - lost, label_fraction=1.0)
            for fraction, layer in product(SLOPES, (0, 1)):
                top1 = finetuned(model, fraction) + head(depth, layer, fraction) - lost
                chosen = {"label_fraction": fraction, "head_layer": layer}
                add(f"{kind}-{fraction:g}-h{layer}", "finetune", model, seed, base, top1, **chosen)
        for fraction in SLOPES:
            add(f"{fraction:g}", "supervised", model, seed, None, supervised(model, fraction), label_fraction=fraction)
    for model, seed, fraction in product(SIZES, range(seeds), (0.01, 0.1)):
        own = finetuned(model, fraction) + BIGGEST_HEAD
        teacher = f"finetune-{model}-d3m1-{fraction:g}-h1-s{seed}"
        settings = {"temperature": 1.0, "distillation_weight": 1.0, "images": "all", "label_fraction": None}
        add(f"self-{fraction:g}", "distill", model, seed, teacher, own + 0.01, **settings)
        if model == BIGGEST:
            continue
        big = f"finetune-{BIGGEST}-d3m1-{fraction:g}-h1-s{seed}"
        for name, gain, change in (
            ("t1", 0.04, {}),
            ("t0.1", 0.042, {"temperature": 0.1}),
            ("t2", 0.01, {"temperature": 2.0}),
            ("w0.5", 0.035, {"distillation_weight": 0.5, "label_fraction": fraction}),
            ("labelled", -0.16, {"images": "labelled"}),
        ):
            add(f"{name}-{fraction:g}", "distill", model, seed, big, own + gain, **{**settings, **change})
        if model == "r18":
            for depth, layer in ((3, 0), (2, 0), (2, 1)):
                worse = f"finetune-{BIGGEST}-d{depth}m1-{fraction:g}-h{layer}-s{seed}"
                lost = (BIGGEST_HEAD - head(depth, layer, fraction)) / 2
                add(f"d{depth}h{layer}-{fraction:g}", "distill", model, seed, worse, own + 0.04 - lost, **settings)
    return records
