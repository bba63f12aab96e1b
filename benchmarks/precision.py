"""Do number formats and memory layouts change results? `python -m benchmarks.precision [--seeds N]`.

Pretrains on the digits and evaluates linearly, for the same seeds in each way of computing, and prints the accuracies
beside those of other seeds: a way of computing is a matter of execution if it moves a result by less than a seed does.
TF32 is compared where there is a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from reports.storage import Storage
from reports.stored import read_records

BASELINE = "float32"
WAYS: dict[str, list[str]] = {
    BASELINE: [],
    "float32, channels first": ["execution.channels_last=false"],
    "bfloat16 autocast": [
        "pretrain.optimization.precision=bfloat16",
        "finetune.optimization.precision=bfloat16",
    ],
}
GPU_WAYS: dict[str, list[str]] = {"float32 without TF32": ["execution.tf32=false"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8, help="2 or more")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a spread takes two seeds or more")
    ways = WAYS | (GPU_WAYS if torch.cuda.is_available() else {})
    with tempfile.TemporaryDirectory() as folder:
        found = {way: measure(Path(folder), way, overrides, options.seeds) for way, overrides in ways.items()}
    for stage in ("linear", "finetune"):
        print(f"\n{stage}: top-1 accuracy on the test digits, {options.seeds} seeds")
        print(f"{'computed in':<26}{'mean':>8}{'sd of seeds':>13}{'change, same seed':>19}{'its error':>11}")
        base = found[BASELINE][stage]
        for way, accuracies in found.items():
            values = [accuracies[stage][seed] for seed in sorted(base)]
            changes = [accuracies[stage][seed] - base[seed] for seed in sorted(base)]
            error = statistics.stdev(changes) / len(changes) ** 0.5
            print(
                f"{way:<26}{statistics.mean(values):>8.4f}{statistics.stdev(values):>13.4f}"
                f"{statistics.mean(changes):>19.4f}{error:>11.4f}"
            )


def measure(folder: Path, way: str, overrides: list[str], seeds: int) -> dict[str, dict[int, float]]:
    """Top-1 accuracy in [0, 1] by stage and seed."""
    root = Path(__file__).parent.parent
    study = yaml.safe_load((root / "study/presets/digits.yaml").read_text())
    study["grid"] = {
        "architecture": "r10w0.25",
        "label_fraction": 0.1,
        "head_layer": 1,
        "seed": list(range(seeds)),
    }
    study["stages"] = {name: study["stages"][name] for name in ("pretrain", "linear", "finetune")}
    if torch.cuda.is_available():
        study["execution"]["per_worker"] = {"CPU": 1, "GPU": 0.25}
    file, storage = folder / "precision.yaml", folder / way
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "study", "launch", str(file), "--storage", str(storage)]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    records, _ = read_records(Storage(str(storage)))
    found: dict[str, dict[int, float]] = {"pretrain": {}, "linear": {}, "finetune": {}}
    for record in records:
        assert record.spec.seed is not None
        found[record.spec.stage][record.spec.seed] = record.metrics["top1"]
    return found


if __name__ == "__main__":
    main()
