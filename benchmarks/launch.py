"""What a launch costs beyond training: `python -m benchmarks.launch [--trials N] [--demo]`.

Prints the overhead of one-worker trials that train next to nothing, and with `--demo` the time of the demo from an
empty storage to its report, the share of it that the cores spent in trials, and the time of launching it again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import yaml

from reports.records import Record
from reports.storage import Storage
from reports.stored import read_records

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_scaling": "linear"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--demo", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder), options.trials)
        if options.demo:
            demo(Path(folder))


def overhead(folder: Path, trials: int) -> None:
    """One trial after the other in a reused process: time from one record to the next, less the trial's own seconds."""
    study = {
        "name": "trivial",
        "data": {"name": "digits", "source": "digits", "image_size": 8, "train_images": 1438, "classes": 10},
        "grid": {"architecture": "r10w0.0625", "label_fraction": 0.01, "seed": list(range(trials))},
        "stages": {"supervised": {"optimization": {**SGD, "global_batch_size": 14, "epochs": 1}}},
        "execution": {"max_workers": 1},
    }
    file = folder / "trivial.yaml"
    file.write_text(yaml.safe_dump(study))
    seconds = launch(file, folder / "trivial")
    records = finished_in_order(folder / "trivial")
    gaps = [
        (finished(later) - finished(earlier)).total_seconds() - seconds_of(later)
        for earlier, later in itertools.pairwise(records)
    ]
    own = [seconds_of(record) for record in records[1:]]
    print(f"{len(records)} trivial trials, one after the other: {seconds:.1f} s from command to report")
    print(f"{'seconds a trial':<34}{'min':>8}{'median':>8}{'max':>8}")
    for name, values in (("overhead between trials", gaps), ("the trial itself", own)):
        print(f"{name:<34}{min(values):>8.3f}{statistics.median(values):>8.3f}{max(values):>8.3f}")


def demo(folder: Path) -> None:
    preset = Path("study/presets/digits.yaml")
    first = launch(preset, folder / "demo")
    records = finished_in_order(folder / "demo")
    cores = os.cpu_count() or 1
    busy = sum(seconds_of(record) for record in records)  # each has one worker
    again = launch(preset, folder / "demo")
    print(f"\ndemo, {len(records)} trials on {cores} cores")
    print(f"{'command to report':<34}{first:>8.1f} s")
    print(f"{'share of the cores spent in trials':<34}{busy / (first * cores):>8.0%}")
    print(f"{'launching it again':<34}{again:>8.1f} s")


def launch(study: Path, storage: Path) -> float:
    """Seconds of a launch as a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "study", "launch", str(study), "--storage", str(storage)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def finished_in_order(storage: Path) -> list[Record]:
    records, problems = read_records(Storage(str(storage)))
    assert not problems
    return sorted(records, key=finished)


def finished(record: Record) -> datetime:
    assert record.finished_at is not None
    return record.finished_at


def seconds_of(record: Record) -> float:
    """A trial's own wall time."""
    assert record.cost.wall_seconds is not None
    return record.cost.wall_seconds


if __name__ == "__main__":
    main()
