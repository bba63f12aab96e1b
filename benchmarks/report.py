"""What the report costs: `python -m benchmarks.report [--records N]`.

Prints the seconds to read N synthetic records (10,000) from a local storage, to build their page and its size, and
with a Chromium the seconds until the opened page has drawn all its figures.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.browser import browser, find_browser
from reports.build import read_results
from reports.next_experiment import ReportedTrial
from reports.page import build_page
from reports.records import Record
from reports.results import StudyInfo
from reports.settings import variant_of
from reports.storage import Storage

SIZES = {
    f"r{depth}{f'w{width}' if width > 1 else ''}{'sk' * kernels}": round(size * 1e6 * width**2 * (1 + 0.5 * kernels))
    for (depth, size), width, kernels in itertools.product({50: 23.6, 101: 42.6, 152: 58.3}.items(), (1, 2), (0, 1))
}
FRACTIONS = (0.01, 0.1, 1.0)
SEEDS = range(6)
LAYERS = range(4)
TEMPERATURES = (0.1, 0.5, 1.0, 2.0)
WEIGHTS = (0.0, 0.5, 1.0)
LOGGED = 100  # steps in a history, as many as a trial logs
WHEN = datetime(2026, 1, 5, tzinfo=UTC).isoformat()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        planned = write(Path(folder) / "records", options.records)
        started = time.monotonic()
        results = read_results(storage, StudyInfo("benchmark", "What does a report cost?", planned))
        read = time.monotonic()
        assert len(results.records) == len(planned), results.problems[:1]
        page = build_page(results).encode()
        built = time.monotonic()
        print(f"{'reading ' + format(len(planned), ',') + ' records':<34}{read - started:>8.1f} s")
        print(f"{'building the page from them':<34}{built - read:>8.1f} s")
        print(f"{'its size':<34}{len(page) / 1e6:>8.1f} MB")
        (Path(folder) / "page.html").write_bytes(page)
        drawn(Path(folder) / "page.html")


def drawn(page: Path) -> None:
    """Print how long the page takes from its opening until the last figure is there, and what it draws."""
    found = find_browser()
    if found is None:
        print("no Chrome or Chromium here: the page was not opened")
        return
    with browser(found) as opened:
        opened.open("about:blank")
        started = time.monotonic()
        opened.open(page.as_uri())
        while not opened.evaluate("document.documentElement.dataset.drawn"):
            time.sleep(0.02)
        figures = opened.evaluate("document.querySelectorAll('.plot .svg-container').length")
        print(f"{f'opening it, {figures} figures drawn':<34}{time.monotonic() - started:>8.1f} s")
        assert opened.complaints() == [], opened.complaints()


def write(folder: Path, count: int) -> dict[str, ReportedTrial]:
    """Write the first `count` records of the grid, as a launch would, and return their plan."""
    folder.mkdir()
    planned: dict[str, ReportedTrial] = {}
    noise = random.Random(0)
    for record in itertools.islice(records(noise), count):
        spec = record["spec"]
        settings = spec["settings"]
        planned[record["id"]] = ReportedTrial(
            record["id"],
            spec["stage"],
            spec["architecture"],
            settings.get("label_fraction"),
            settings.get("head_layer"),
            settings.get("temperature"),
            spec["seed"],
            spec["parent"],
            record["cost"]["train_flops"],
            variant_of("run", spec, parent.variant if (parent := planned.get(spec["parent"])) else None),
        )
        text = Record.model_validate(record).model_dump_json(indent=1)
        (folder / f"{record['id']}.json").write_text(text, encoding="utf-8")
    return planned


def records(noise: random.Random) -> Iterator[dict[str, Any]]:
    """A study of all stages over architectures, label fractions, head layers, temperatures, weights and seeds."""
    for seed, (model, size) in itertools.product(SEEDS, SIZES.items()):
        base = record(f"pretrain-{model}-d3-s{seed}", "pretrain", model, seed, None, 0.6, noise, head_depth=3)
        yield base
        for fraction in FRACTIONS:
            top1 = 0.55 + 0.08 * math.log10(100 * fraction) + 0.04 * math.log10(size / 2e7)
            cell = f"{model}-{100 * fraction:g}pct-s{seed}"
            labels = {"label_fraction": fraction}
            yield record(f"linear-{cell}", "linear", model, seed, base["id"], top1 - 0.05, noise, **labels)
            yield record(f"supervised-{cell}", "supervised", model, seed, None, top1 - 0.2, noise, **labels)
            for layer in LAYERS:
                better = top1 + 0.02 * (layer == 1)
                teacher = record(
                    f"finetune-{cell}-h{layer}",
                    "finetune",
                    model,
                    seed,
                    base["id"],
                    better,
                    noise,
                    head_layer=layer,
                    **labels,
                )
                yield teacher
                for tau, weight in itertools.product(TEMPERATURES, WEIGHTS):
                    settings = {"temperature": tau, "distillation_weight": weight, "images": "all"}
                    id = f"distill-{cell}-h{layer}-t{tau:g}-a{weight:g}"
                    yield record(id, "distill", model, seed, teacher["id"], better + 0.03, noise, **settings)


def record(
    id: str, stage: str, model: str, seed: int, parent: str | None, top1: float, noise: random.Random, **settings: Any
) -> dict[str, Any]:
    """One record as plain types, with all the settings and the history that a real one has."""
    optimization = {"optimizer": "lars", "learning_rate": 0.02, "momentum": 0.9, "global_batch_size": 128, "epochs": 10}
    own = {"memory": {"size": 0, "decay": 0.0}} if stage == "pretrain" else {}
    logged = ["learning_rate", "loss"]
    logged += ["contrastive_loss", "probe_loss", "effective_rank", "projection_rank"] if stage == "pretrain" else []
    fraction = settings.get("label_fraction", 0.0)
    return {
        "format": 1,
        "id": id,
        "study": "benchmark",
        "source": "run",
        "spec": {
            "protocol": 1,
            "stage": stage,
            "data": {"name": "benchmark", "image_size": 224, "classes": 1000},
            "architecture": model,
            "seed": seed,
            "parent": parent,
            "settings": {"optimization": optimization, "micro_batches": 1, **own, **settings},
        },
        "metrics": {"top1": min(0.99, max(0.0, top1 + noise.gauss(0, 0.004))), "top5": 0.99, "loss": 1.0},
        "history": [
            {"step": 10.0 * step, "epoch": step / 10, **{name: noise.random() for name in logged}}
            for step in range(LOGGED)
        ],
        "model": {"encoder_parameters": SIZES[model], "parameters": SIZES[model] + 2_049_000},
        "cost": {
            "wall_seconds": 600.0,
            "device_seconds": 600.0,
            "images": 128_000,
            "train_flops": 1e3 * SIZES[model],
            "sessions": 1,
        },
        "resources": {"workers": 1, "per_worker": {"CPU": 8.0, "GPU": 1.0}, "device": "NVIDIA H100 80GB HBM3"},
        "data": {
            "fingerprint": "0123456789abcdef" * 4,
            "train_images": 1_281_167,
            "labelled_images": int(fraction * 1_281_167),
            "test_images": 50_000,
            "subset_hash": f"{fraction:g}".ljust(64, "0") if fraction else None,
        },
        "environment": {
            "commit": "0123456789abcdef0123",
            "dirty": False,
            "versions": {"torch": "2.15.0", "torchvision": "0.29.2", "ray": "2.60.0", "numpy": "2.4.6"},
            "host": "node-1",
            "python": "3.11.7",
        },
        "started_at": WHEN,
        "finished_at": WHEN,
    }


if __name__ == "__main__":
    main()
