"""`make mutate`: the code is changed in one place at a time, and the tests that are named for it must notice.

Each change is made in a copy of the checkout, never in the checkout itself. Exit code 1 if a change passed unnoticed,
or if a text to be changed does not stand exactly once in its file.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from mutants import data_and_study, networks_and_views, training

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300
"""A mutation whose tests run for so long is noticed: they would not end."""

Mutant = tuple[str, str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("--only", default="", help="a part of the file's name")
    parser.add_argument("--seed", type=int, default=0, help="the order in which mutations are tried")
    parser.add_argument("--count", type=int, help="so many at most")
    options = parser.parse_args()
    mutants = [
        one
        for one in [*training.MUTANTS, *networks_and_views.MUTANTS, *data_and_study.MUTANTS]
        if options.only in one[0]
    ]
    if wrong := [problem for one in mutants if (problem := misplaced(one))]:
        print("\n".join(wrong))
        return 1
    random.Random(options.seed).shuffle(mutants)
    mutants = mutants[: options.count]
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="labelscale-mutants-") as folder:
        tree = copied(Path(folder) / "tree")
        survivors = [one for number, one in enumerate(mutants, 1) if not noticed(tree, one, f"{number}/{len(mutants)}")]
    print(f"{len(mutants)} mutations, {len(mutants) - len(survivors)} noticed, {len(survivors)} unnoticed")
    for file, before, after, tests in survivors:
        print(f"unnoticed: {file}: {before!r} -> {after!r} by {tests}")
    return 1 if survivors else 0


def misplaced(mutant: Mutant) -> str:
    """Why a mutation cannot be made; empty if it can."""
    file, before, _, _ = mutant
    count = (ROOT / file).read_text().count(before)
    return "" if count == 1 else f"{file}: {before!r} stands there {count} times; expected once"


def copied(tree: Path) -> Path:
    """A copy of what git tracks of the checkout, as it is now."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def load_libraries() -> None:
    """Import what all tests import, once: each mutation is tried in a fork of this process."""
    import pandas
    import pyarrow.parquet
    import pydantic
    import pytest
    import sklearn.datasets
    import torch
    import torchvision

    assert all((pandas, pyarrow, pydantic, pytest, sklearn, torch, torchvision))
    sys.dont_write_bytecode = True


def noticed(tree: Path, mutant: Mutant, number: str) -> bool:
    """Whether the tests that a mutation names fail with it."""
    file, before, after, tests = mutant
    source = (tree / file).read_text()
    (tree / file).write_text(source.replace(before, after))
    started = time.monotonic()
    try:
        code = code_of(tree, shlex.split(tests))
    finally:
        (tree / file).write_text(source)
    outcome = {0: "UNNOTICED", 1: "noticed", None: "noticed: its tests did not end"}.get(code, f"ERROR {code}")
    print(f"{number} {outcome} in {time.monotonic() - started:.0f} s: {file}: {before.strip()[:70]!r}", flush=True)
    if code not in (0, 1, None):
        print((tree / "pytest.log").read_text()[-2000:], flush=True)
    return code in (1, None)


def code_of(tree: Path, arguments: list[str]) -> int | None:
    """Exit code of pytest in a fork of this process, 1 if tests failed, or None if they did not end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(tree)
        log = os.open(tree / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 3
        try:
            sys.path[:] = [
                str(tree),
                str(tree / "tests"),
                *(p for p in sys.path if not p.startswith(str(ROOT) + "/") or "site-packages" in p),
            ]
            for name in [name for name in sys.modules if name.split(".")[0] == "mutants"]:
                del sys.modules[name]
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return 1 if code < 0 else code  # a process that ends by a signal is noticed, too
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.exit(main())
