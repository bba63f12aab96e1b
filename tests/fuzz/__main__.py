"""`make fuzz`: random damage to everything that is read, kind by kind, in processes that may end over it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.child import keep, read_tally
from fuzz.kinds import GOOD, KINDS, find

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
HANGS_SECONDS = 180.0
"""A process that is at the same input for so long hangs where no timer ends it."""
MOST_FINDINGS = 20
"""Of a kind; then it is left."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="inputs of all kinds together (100000)")
    parser.add_argument("--seconds", type=float, default=3600, help="shared by the kinds (3600)")
    parser.add_argument("--seed", default="0", help="of the random numbers (0)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--first", type=int, default=0, help="number of a kind's first input: to try one again (0)")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at once (2)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/fuzz", help="inputs of findings (build/fuzz)")
    options = parser.parse_args(arguments)
    if unknown := {kind for kind in options.kinds.split(",") if ":" not in kind} - KINDS.keys():
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return options


def fuzz(kind: str, options: argparse.Namespace, count: int, seconds: float) -> Counter[str]:
    """Try so many inputs of a kind, for so long at most; what became of them.

    An input over which the process ends is a finding like any other, and another process goes on behind it.
    """
    folder, deadline = options.folder / kind.replace(":", "-"), time.monotonic() + seconds
    folder.mkdir(parents=True)
    total: Counter[str] = Counter()
    first, last = options.first, options.first + count
    while first < last and (left := deadline - time.monotonic()) > 0:
        words = [sys.executable, "-m", "fuzz.child", kind, options.seed, first, last, left, folder]
        with (folder / "said.log").open("ab") as log:
            child = subprocess.Popen(
                list(map(str, words)),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{TESTS}:{ROOT}", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            code = wait(child, folder)
        found = read_tally(folder)
        total += Counter(found["counts"])
        first = found["at"] + 1
        if code == 0 or first <= options.first:
            break
        told = f"hung for {HANGS_SECONDS:.0f} s" if code is None else f"ended by {name_of(code)}"
        total[told] += 1
        keep(folder / "work", folder / f"finding-{found['at']}", told)
        if bad(total) > MOST_FINDINGS:
            break
    if not total:
        total["could not begin"] += 1
    return total


def wait(child: subprocess.Popen[bytes], folder: Path) -> int | None:
    """Wait for a process as long as it comes on; its exit code, None where it hung and was killed."""
    changed, before = time.monotonic(), b""
    while True:
        try:
            return child.wait(1)
        except subprocess.TimeoutExpired:
            path = folder / "counts.json"
            now = path.read_bytes() if path.exists() else b""
            if now != before:
                changed, before = time.monotonic(), now
            if time.monotonic() - changed > HANGS_SECONDS:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return None


def name_of(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def bad(counts: Counter[str]) -> int:
    return sum(count for outcome, count in counts.items() if outcome not in GOOD)


def table(found: dict[str, Counter[str]]) -> list[str]:
    """Lines with what became of the inputs of each kind."""
    lines = [f"{'kind':<14}{'inputs':>11}{'read':>11}{'refused':>11}{'findings':>10}"]
    for kind, counts in found.items():
        read, refused = counts["read"] + counts["harmless"], counts["refused"] + counts["survived"]
        told = (outcome for outcome in counts if outcome not in GOOD or outcome == "survived")
        odd = "; ".join(f"{counts[outcome]} {outcome}" for outcome in told)
        lines.append(f"{kind:<14}{counts.total():>11,}{read:>11,}{refused:>11,}{bad(counts):>10,}  {odd}".rstrip())
    whole = sum(found.values(), Counter())
    read = whole["read"] + whole["harmless"]
    refused = whole["refused"] + whole["survived"]
    lines.append(f"{'all':<14}{whole.total():>11,}{read:>11,}{refused:>11,}{bad(whole):>10,}")
    return lines


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    kinds = options.kinds.split(",")
    weights = sum(find(kind).weight for kind in kinds)
    seconds = options.seconds * min(options.jobs, len(kinds)) / len(kinds)

    def one(kind: str) -> Counter[str]:
        count = -(-options.count * find(kind).weight // weights)
        found = fuzz(kind, options, count, seconds)
        if bad(found):
            print(
                f"{kind}: {bad(found)} findings, whose inputs lie in {options.folder / kind.replace(':', '-')}",
                flush=True,
            )
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(kinds, pool.map(one, kinds), strict=True))
    print("\n".join(table(found)))
    return 1 if any(map(bad, found.values())) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
