"""What a plan costs: `python -m benchmarks.plan`.

Plans grids of 1,000, 10,000 and 100,000 cells with the command itself, each as a process of its own, and prints its
seconds and its peak memory; once from an empty storage and once with a calibration, so that every trial is predicted
and the whole launch is simulated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from reports.storage import Storage
from study.throughput import Calibration, Measurement, write_calibration

ARCHITECTURES = [f"r{depth}{width}" for depth in (10, 18, 34, 50, 101) for width in ("", "w2")]
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_scaling": "linear"}
MOST_SECONDS, MOST_BYTES = 10.0, 1e9  # of 100,000 cells


def main() -> None:
    print(f"{'':18}{'plan (s)':>20}{'and predicted, simulated (s)':>32}{'peak memory':>14}")
    print(f"{'cells':>9}{'trials':>9}{'wall':>10}{'CPU':>10}{'wall':>16}{'CPU':>16}{'(MB)':>14}")
    for cells in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "study.yaml"
            file.write_text(yaml.safe_dump(study(cells)))
            plain, plain_cpu, _, _ = plan(file, Path(folder) / "empty")
            calibrate(Path(folder) / "calibrated")
            full, full_cpu, peak, lines = plan(file, Path(folder) / "calibrated")
        total = next(line for line in lines if line.startswith("total"))
        assert any(line.startswith("critical") for line in lines), "nothing was simulated"
        print(
            f"{cells:>9,}{total.split()[2]:>9}{plain:>10.1f}{plain_cpu:>10.1f}{full:>16.1f}{full_cpu:>16.1f}"
            f"{peak / 1e6:>14.0f}"
        )
    print(f"limits for 100,000 cells: {MOST_SECONDS:g} s (of CPU: others use this machine), {MOST_BYTES / 1e6:,.0f} MB")
    if full_cpu > MOST_SECONDS or peak > MOST_BYTES:
        sys.exit("a limit is exceeded")


def study(cells: int) -> dict[str, Any]:
    """A study of every stage whose grid has so many cells, a multiple of 1,000."""
    large, small = {"global_batch_size": 128, "epochs": 20}, {"global_batch_size": 64, "epochs": 30}
    return {
        "name": "many",
        "data": {"name": "digits", "source": "digits", "image_size": 8, "train_images": 1438, "classes": 10},
        "grid": {
            "architecture": ARCHITECTURES,
            "label_fraction": [0.01, 0.02, 0.05, 0.1, 1.0],
            "head_layer": [0, 1, 2, 3],
            "temperature": [0.1, 0.2, 0.5, 1.0, 2.0],
            "seed": list(range(cells // 1_000)),
        },
        "stages": {
            "pretrain": {"optimization": {"learning_rate": 1.0, **large, "warmup_epochs": 2}},
            "linear": {"optimization": {**SGD, **small}},
            "finetune": {
                "optimization": {"learning_rate": 0.02, **small},
                "when": [{"where": {"label_fraction": 0.01}, "set": {"optimization.global_batch_size": 14}}],
            },
            "supervised": {"optimization": {**SGD, **small}},
            "distill": {
                "optimization": {**SGD, **large},
                "when": [{"where": {"temperature": 0.1}, "set": {"optimization.learning_rate": 0.05}}],
            },
        },
    }


def calibrate(folder: Path) -> None:
    """Store a calibration in which every operation takes the same time: what a plan reads, not what is measured."""
    measurement = Measurement(
        architecture="r10",
        stage="pretrain",
        batch=128,
        image_size=8,
        precision="float32",
        steps=5,
        seconds=1.0,
        flops=1e10,
    )
    calibration = Calibration(
        device="cpu", hardware="any", measured_at=datetime.now(UTC), versions={}, measurements=(measurement,)
    )
    write_calibration(Storage(str(folder)), calibration)


def plan(study: Path, storage: Path) -> tuple[float, float, float, list[str]]:
    """Seconds on the clock and on the CPU and peak memory (bytes) of the command, and what it prints."""
    command = [sys.executable, "-m", "study", "plan", str(study), "--storage", str(storage), "--devices", "64"]
    printed = storage.with_suffix(".txt")
    with printed.open("w") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0, printed.read_text().splitlines()


if __name__ == "__main__":
    main()
