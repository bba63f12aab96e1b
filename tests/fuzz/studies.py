"""Studies with the right form and wrong content: trees of settings are changed, loaded, and some of them planned."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plan import calibrate
from fuzz import mutate
from fuzz.inputs import PRESETS, ScreenError, run_command
from reports.message import printable
from reports.plain_yaml import read_yaml_file
from studies import tiny
from study.advice import warnings_of
from study.check import MOST_CELLS
from study.load import load_study, parse_study, with_seeds
from study.plan import ExpectedImages, make_plan
from trainables.spec import STAGES

PLANNED = 0.1
"""Of the studies that are read; planning one costs more than reading hundreds."""
SECONDS = 4.0
"""Of CPU time, within which every study is refused or read; twice what is promised, as machines differ."""
SMALL = 200  # cells of a study that is planned

NAMES = ("a" * 64, "a" * 65, "con", "a.", "..", "A", "x/y", "<b>", "=1+1", "é", "\u202e", "☃" * 200, "a\nb", "")
SELECTED: tuple[dict[str, list[float]], ...] = (
    {},
    {"momentum": []},
    {"momentum": [0.1, 0.1]},
    {"momentum": [0.1, 0.9]},
)
SETTINGS: tuple[tuple[str, Any], ...] = (
    *((f"data.{key}", value) for key in ("name", "source") for value in NAMES),
    *(("name", value) for value in NAMES),
    *((f"grid.{axis}", value) for axis in ("seed", "head_layer", "temperature") for value in mutate.NUMBERS),
    *(("grid.seed", list(range(size))) for size in (3, 500)),
    *(("grid.label_fraction", [value]) for value in (1e-320, 1e-9, 0.5, 1, 2)),
    *(("grid.architecture", value) for value in ("r10w64", "r10w65", "r50w" + "9" * 500, "r" + "9" * 5000, "R50", "*")),
    *((f"grid.{stage}.optimization.epochs", [1, 2, 10**6, 10**7]) for stage in STAGES),
    *(("grid.distill.teacher", value) for value in ("best", "finetuned", ["self-distilled", "finetuned"])),
    *(("grid.distill.student", value) for value in ("same", "r18", ["same", "r10w0.0625"])),
    *((f"stages.{stage}.optimization.{key}", value) for stage in STAGES for key in ("epochs", "global_batch_size")
      for value in (1, 2, 10**7, 10**8)),
    *((f"stages.{stage}.micro_batches", value) for stage in STAGES for value in (0, 1, 2, 10**9)),
    *((f"stages.{stage}.search", {"learning_rate": {"log": ends}, "trials": trials})
      for stage in STAGES for ends in ([0.01, 1], [1, 0.01], [0, 1], [1e-300, 1e300]) for trials in (1, 30, 10**9)),
    *((f"stages.{stage}.search", {"epochs": {"int": ends}, "device_hours": 1e-9})
      for stage in STAGES for ends in ([1, 3], [1, 10**30], [3, 1])),
    *((f"stages.{stage}.search", {key: {"choices": [0.1, 0.2]}}) for stage in STAGES for key in ("x", "momentum", 1)),
    *((f"stages.{stage}.select", {"over": over})
      for stage in STAGES for over in SELECTED),
    *((f"stages.{stage}.when", [{"where": where, "set": put}]) for stage in STAGES
      for where in ({}, {"seed": 0}, {"architecture": "*a*a*a*a*b"}, {"x": 1})
      for put in ({}, {"optimization": 1}, {"x": 1})),
    *((f"stages.{stage}", None) for stage in STAGES),
    *(("execution.workers", value) for value in (0, 1, 3, 10**9, {"*": 2}, {}, {"r50": 0})),
    *(("execution.per_worker", {key: value}) for key in ("GPU", "gpu", "CPU", "", "x" * 500)
      for value in (0, 1e-9, 1, 3)),
    *(("dev.folds", value) for value in (1, 2, 1000, 1001)),
    *(("explore", {"budget_device_hours": value, "patience": 2}) for value in (1e-9, 1, 1e300)),
    *(("explore.objectives", value) for value in (["dev_top1", "parameters"], ["top1"], [], "x")),
)  # fmt: skip


def bases() -> list[dict[str, Any]]:
    """Studies that are in order, the small one most often."""
    presets = [read_yaml_file(path) for path in PRESETS]
    return [*(one for one in presets if "base" not in one), *[tiny()] * 12]


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path, where an axis's name may have dots."""
    first, *rest = path.split(".")
    if not rest:
        raw[first] = value
        return
    node: Any = raw.get(first)
    if first == "grid":
        rest = [".".join(rest)]
        node = node[0] if isinstance(node, list) and node else node
    for key in rest[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node[rest[-1]] = value


def changed(draw: random.Random, before: dict[str, Any]) -> Any:
    """A study with a few settings changed to values that somebody may write, or anything anywhere."""
    raw: Any = json.loads(json.dumps(before))
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        path, value = draw.choice(SETTINGS)
        put(raw, path, value)
    return mutate.plain(draw, raw) if draw.random() < 0.3 else raw


def trees(folder: Path) -> Callable[[random.Random], str]:
    """Changed studies are parsed as they are or as a file, and small ones are planned."""
    known, file = bases(), folder / "input.yaml"
    calibrate(folder / "runs")  # so that hours are predicted, money is counted and a launch is simulated
    for command in ("plan", "status"):
        run_command([command, str(PRESETS[0]), "--storage", str(folder / "runs")])

    def attack(draw: random.Random) -> str:
        raw = changed(draw, draw.choice(known))
        started = time.process_time()
        try:
            return read_one(draw, raw, file)
        except ValueError as error:
            if len(printable(f"error: {error}")) > 2_000 or not str(error).strip():
                raise ScreenError(f"a message of {len(str(error)):,} characters") from None
            raise
        finally:
            if (took := time.process_time() - started) > SECONDS:
                raise ScreenError(f"took {took:.1f} s: {str(raw)[:500]}")

    return attack


def read_one(draw: random.Random, raw: Any, file: Path) -> str:
    """Read a study in one of the ways in which it comes in."""
    if draw.random() < 0.5 and isinstance(raw, dict):
        study = parse_study(raw)
        file.write_text(repr(raw), encoding="utf-8", errors="replace")
    else:
        file.write_text(json.dumps(raw, default=str), encoding="utf-8", errors="replace")
        study = load_study(file)
    list(warnings_of(study))
    if draw.random() < 0.3:
        study = with_seeds(study, draw.choice((1, 2, 10, 10**5)))
    cells = sum(math.prod(map(len, grid.axes.values())) for grid in study.grid)
    assert cells <= MOST_CELLS
    if cells <= SMALL and draw.random() < PLANNED:
        make_plan(study, ExpectedImages.of(study))
        if file.read_text(encoding="utf-8").startswith("{") and draw.random() < 0.3:
            return run_command(["plan", str(file), "--storage", str(file.parent / "runs")])
    return "read"
