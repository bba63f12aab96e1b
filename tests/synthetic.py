"""Synthetic records: a small study of every stage whose accuracies follow a formula, with seeded noise over seeds."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from reports.records import Record

SIZES = {"r10w0.25": 180_000, "r10w0.5": 700_000, "r18": 11_180_736}
OTHER_SIZES = {"r18sk": 12_000_000, "r34": 21_300_000, "r34sk": 23_000_000, "r50": 23_600_000, "r101": 42_600_000}
FRACTIONS = (0.01, 0.1, 1.0)
TENTH = {"label_fraction": 0.1}
TRAIN_IMAGES = 10_000
RECIPES: dict[str, dict[str, Any]] = {
    "pretrain": {"memory": {"size": 0, "decay": 0.0}},
    "linear": {"label_fraction": 0.1},
    "finetune": {"label_fraction": 0.1},
    "supervised": {"label_fraction": 0.1, "augmentation": {"auto_augment": "none"}, "label_smoothing": 0.0},
    "distill": {"distillation_weight": 1.0, "images": "all"},
}
"""Settings that a stage has unless a test says otherwise."""
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def record(
    trial_id: str,
    stage: str = "finetune",
    architecture: str = "r18",
    seed: int = 0,
    parent: str | None = None,
    top1: float = 0.5,
    **settings: Any,
) -> Record:
    """One valid record; `settings` are the stage's settings."""
    return Record.model_validate(plain(trial_id, stage, architecture, seed, parent, top1, **settings))


def plain(
    trial_id: str,
    stage: str = "finetune",
    architecture: str = "r18",
    seed: int = 0,
    parent: str | None = None,
    top1: float = 0.5,
    **settings: Any,
) -> dict[str, Any]:
    """The same as JSON types."""
    size = {**SIZES, **OTHER_SIZES}.get(architecture, 5_000_000)
    settings = {**RECIPES.get(stage, {}), **settings}
    fraction = settings.get("label_fraction") or 0.0
    metrics = {"top1": top1, "top5": min(1.0, top1 + 0.3), "loss": 2.0 - top1}
    if stage == "pretrain":
        metrics |= {"contrastive_accuracy": 0.7, "knn_top1": top1 - 0.05, "effective_rank": 12.5}
    return {
        "format": 1,
        "id": trial_id,
        "study": "synthetic",
        "source": "run",
        "spec": {
            "protocol": 1,
            "stage": stage,
            "data": {"name": "digits", "image_size": 8, "classes": 10, "label_seed": 0},
            "architecture": architecture,
            "seed": seed,
            "parent": parent,
            "settings": {**settings, "optimization": {"learning_rate": 0.1, "epochs": 10}},
        },
        "metrics": metrics,
        "history": [history_row(step, size, stage) for step in range(0, 1001, 50)],
        "model": {"encoder_parameters": size, "parameters": size + 5130},
        "cost": {
            "wall_seconds": size / 50_000,
            "device_seconds": size / 50_000,
            "images": 100_000,
            "train_flops": 6e4 * size,
            "sessions": 1,
        },
        "resources": {"workers": 1, "per_worker": {"CPU": 1}, "device": "cpu"},
        "data": {
            "fingerprint": "d1g175f00d",
            "train_images": TRAIN_IMAGES,
            "labelled_images": math.ceil(fraction * TRAIN_IMAGES),
            "test_images": 500,
            "subset_hash": f"subset{fraction:g}" if fraction else None,
        },
        "environment": {
            "commit": "0123abc",
            "dirty": False,
            "versions": {"torch": "2.15.0", "ray": "2.60.0"},
            "host": "node-1",
            "python": "3.11.7",
        },
        "started_at": START.isoformat(),
        "finished_at": (START + timedelta(seconds=size / 50_000)).isoformat(),
    }


def study(seeds: int = 2, sizes: dict[str, int] = SIZES) -> list[Record]:
    """All five stages over 3 architectures x 3 label fractions x 2 head layers x 2 temperatures x `seeds`.

    A distilled student has its teacher's architecture; bigger models are better, most so with few labels.
    """
    noise = random.Random(0)
    records = []

    def add(trial_id: str, stage: str, model: str, seed: int, parent: str | None, top1: float, **settings: Any) -> None:
        top1 += noise.gauss(0, 0.004)
        records.append(record(trial_id, stage, model, seed, parent, min(max(top1, 0.0), 1.0), **settings))

    for model, seed in product(sizes, range(seeds)):
        base = f"pretrain-{model}-s{seed}"
        add(base, "pretrain", model, seed, None, 0.6, head_depth=3, temperature=0.1)
        for fraction in FRACTIONS:
            cell = f"{model}-{fraction:g}-s{seed}"
            top1 = (
                0.55
                + 0.1 * (math.log10(fraction) + 2)
                + (0.05 - 0.018 * math.log10(fraction)) * math.log10(sizes[model] / 180_000)
            )
            add(f"linear-{cell}", "linear", model, seed, base, top1 - 0.06, label_fraction=fraction)
            add(
                f"supervised-{cell}",
                "supervised",
                model,
                seed,
                None,
                top1 - 0.2 + 0.08 * fraction,
                label_fraction=fraction,
            )
            for layer in (0, 1):
                teacher = f"finetune-{cell}-h{layer}"
                gain = 0.03 * layer * (1 - fraction)
                add(teacher, "finetune", model, seed, base, top1 + gain, label_fraction=fraction, head_layer=layer)
                for tau in (0.1, 1.0):
                    distilled = {"temperature": tau, "label_fraction": None}
                    add(f"distill-{cell}-h{layer}-t{tau}", "distill", model, seed, teacher, top1 + 0.05, **distilled)
    return records


def ablations() -> list[Record]:
    """What `study` does not vary, one seed each, with 10 % of the labels: head depth and layer, memory, selective
    kernels, four sizes, temperature and weight of distillation, students of another size."""
    found = []

    def add(trial_id: str, stage: str, model: str, parent: str | None, top1: float, **settings: Any) -> None:
        found.append(record(trial_id, stage, model, 0, parent, top1, **settings))

    for model, top1 in {"r18": 0.5, "r34": 0.6, "r18sk": 0.55, "r34sk": 0.62, "r50": 0.63, "r101": 0.68}.items():
        for depth in (2, 3):
            base = f"p-{model}-d{depth}"
            add(base, "pretrain", model, None, 0.5, head_depth=depth)
            for layer in (0, 1):
                gain = 0.02 * layer * depth
                add(f"f-{model}-d{depth}-h{layer}", "finetune", model, base, top1 + gain, **TENTH, head_layer=layer)
            add(f"l-{model}-d{depth}", "linear", model, base, top1 - 0.1 + 0.01 * depth, **TENTH)
        add(f"p-{model}-memory", "pretrain", model, None, 0.5, head_depth=3, memory={"size": 64, "decay": 0.99})
        add(f"l-{model}-memory", "linear", model, f"p-{model}-memory", top1 - 0.05, **TENTH)
        add(f"s-{model}", "supervised", model, None, top1 - 0.2, **TENTH)
        add(f"s-{model}-regularized", "supervised", model, None, top1 - 0.1, **TENTH, label_smoothing=0.1)
    for tau, weight in product((0.1, 1.0, 2.0), (0.5, 1.0)):
        for teacher in ("f-r34-d3-h1", "f-r50-d3-h1"):
            settings = {"temperature": tau, "distillation_weight": weight, "label_fraction": 0.1}
            trial_id = f"d-r18-{teacher}-t{tau}-w{weight}"
            add(trial_id, "distill", "r18", teacher, 0.6 - 0.01 * tau + 0.05 * ("50" in teacher), **settings)
    labelled = {"temperature": 1.0, "distillation_weight": 0.5, "label_fraction": 0.1, "images": "labelled"}
    add("d-r18-labelled", "distill", "r18", "f-r34-d3-h1", 0.3, **labelled)
    return found


def history_row(step: int, size: int, stage: str) -> dict[str, float]:
    """A falling loss; a pretraining's is the sum of its contrastive loss and its probe's."""
    contrastive = 3 + 4 * math.exp(-step / 200) - 1e-8 * size
    parts = {"contrastive_loss": contrastive, "probe_loss": 1.5} if stage == "pretrain" else {}
    return {"step": step, "epoch": step / 50, "loss": contrastive + 1.5, "learning_rate": 0.1, **parts}
