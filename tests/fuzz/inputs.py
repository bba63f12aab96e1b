"""What a user writes: study files, `--set`, `--only`, and flags."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fuzz import mutate
from reports.storage import Storage
from studies import tiny, tiny_study
from study.cli import main
from study.images import find_images
from study.load import load_study
from study.only import check_matches, parse_only
from study.plan import make_plan
from trainables.spec import STAGES

Attack = Callable[[random.Random], str]
LONGEST = 2000
PRESETS = sorted(Path("study/presets").glob("*.yaml"))


def presets(folder: Path) -> Attack:
    """Changed files of studies are loaded, beside the others, from which they may take their beginning."""
    for path in PRESETS:
        shutil.copy(path, folder)
    texts = [path.read_text(encoding="utf-8") for path in PRESETS] + [yaml.safe_dump(tiny())] * len(PRESETS)
    file = folder / "input.yaml"

    def attack(draw: random.Random) -> str:
        file.write_bytes(mutate.text(draw, draw.choice(texts)).encode("utf-8", "replace"))
        load_study(file)
        return "read"

    return attack


def paths_of(node: Any, above: str = "") -> list[str]:
    """All dotted paths of a nested mapping."""
    found = [] if not above else [above]
    if isinstance(node, dict):
        for key, value in node.items():
            found += paths_of(value, f"{above}.{key}" if above else str(key))
    return found


def overrides(folder: Path) -> Attack:
    """`--set` with paths that exist, nearly exist or do not, and any values."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({"name": "n", **tiny()}))
    known = [*paths_of(tiny()), "grid.seed", "grid.finetune.kept_head", "stages.pretrain.memory.size", "dev.folds"]
    known += [f"{stage}.optimization.{name}" for stage in STAGES for name in ("epochs", "learning_rate", "optimizer")]

    def attack(draw: random.Random) -> str:
        path = draw.choice(known)
        if draw.random() < 0.2:
            path = mutate.text(draw, path)
        odd = (str(mutate.odd(draw)), draw.choice(mutate.WORDS), mutate.text(draw, "[1, 2, {a: b}]"))
        value = draw.choice(("1", "2", "0.5", "[1, 2]", "sgd", "true", "null", *odd))
        written = f"{path}={value}" if draw.random() < 0.97 else path
        (folder / "input.txt").write_bytes(written.encode("utf-8", "replace"))
        load_study(file, [written])
        return "read"

    return attack


def only(folder: Path) -> Attack:
    """`--only` with words that nearly match."""
    study = tiny_study()
    trials = make_plan(study, find_images(study, Storage(str(folder / "runs"))), frozenset()).trials.values()
    words = (
        "stage=finetune",
        "architecture=r10*",
        "seed=0",
        "label_fraction=0.1",
        "head_layer=1",
        "id=*",
        "x=y",
        "[!a]",
    )

    def attack(draw: random.Random) -> str:
        written = " ".join(draw.choice(words) for _ in range(draw.randrange(4)))
        written = mutate.text(draw, written) if written and draw.random() < 0.8 else written
        (folder / "input.txt").write_bytes(written.encode("utf-8", "replace"))
        check_matches(parse_only(written), trials)
        return "read"

    return attack


class ScreenError(Exception):
    """A command printed what no user should see, or ended as none should."""


def run_command(arguments: list[str]) -> str:
    """Run a command as a user does; `read` where it ends with 0 or 1, `refused` with 2.

    Raises:
        ScreenError: a traceback, a message that is too long or none, or another exit code.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as ended:  # of argparse
            code = ended.code if isinstance(ended.code, int) else -1
    said = err.getvalue()
    if "Traceback" in said or code not in (0, 1, 2) or (code == 2 and not said.strip()):
        raise ScreenError(f"{arguments}: exit code {code}: {said[-1000:]}")
    if len(said) > LONGEST and code == 2:
        raise ScreenError(f"{arguments}: a message of {len(said):,} characters: {said[:300]}")
    return "refused" if code == 2 else "read"


NUMBERS = ("0", "-1", "1", "2", "3", "7", "1e3", "0.5", "1000000000", "9" * 30, "nan", "inf", "-0.0", "1_0")
WORDS = ("", " ", "x", "digits", "a=b", "p3.2xlarge", "/dev/null", "stage=finetune", "seed=0", "data.image_size=9")
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "plan": {"--devices": NUMBERS, "--node": WORDS, "--prices": WORDS, "--set": WORDS},
    "launch": {"--seeds": NUMBERS, "--only": WORDS, "--budget-gpu-hours": NUMBERS, "--set": WORDS},
    "status": {"--set": WORDS, "--storage": (*WORDS, "s3://", "s3:/x", "~", "..")},
    "explain": {"--set": WORDS, "--study": WORDS},
}
"""What is written behind the flags of each command, before it is changed."""


def run_all(arguments: list[list[str]]) -> None:
    """Run commands once, so that what they import is not taken for what an input costs."""
    for one in arguments:
        run_command(one)


def flags(folder: Path) -> Attack:
    """Commands that start nothing, with any values behind their flags."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    (folder / "runs").mkdir()
    where = ["--storage", str(folder / "runs")]
    run_all([[command, str(file), *where] for command in ("plan", "status")])
    run_all([["launch", str(file), "--dry-run", *where], ["explain", "finetune", "--study", str(file), *where]])

    def attack(draw: random.Random) -> str:
        command = draw.choice(list(FLAGS))
        arguments = [command, str(file) if command != "explain" else draw.choice(("finetune-r10", "", "x" * 300))]
        arguments += [*where, *(["--dry-run"] if command == "launch" else [])]
        if command == "explain" and draw.random() < 0.5:
            arguments += ["--study", str(file)]
        for _ in range(draw.randrange(1, 3)):
            flag = draw.choice(list(FLAGS[command]))
            value = draw.choice(FLAGS[command][flag])
            if draw.random() < 0.3 and "://" not in value:  # a URL might be somebody's
                value = mutate.text(draw, value).replace("\x00", "").replace("://", "")
            arguments.append(f"{flag}={value}")
        (folder / "input.txt").write_bytes(repr(arguments).encode("utf-8", "replace"))
        return run_command(arguments)

    return attack
