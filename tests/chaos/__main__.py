"""`make chaos`: rounds of attacks on a small study, each in namespaces of its own, and the table of what held."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chaos.launches import QUIET_SECONDS
from chaos.namespaces import ROOT, command_inside, environment_inside
from chaos.promises import Findings, all_held, table
from chaos.round import KINDS, ROUND_SECONDS
from chaos.study_files import Variant


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how many rounds (20)")
    parser.add_argument("--seconds", type=float, default=1800, help="no round begins after so many (1800)")
    parser.add_argument("--seed", type=int, default=0, help="round N draws from seed + N (0)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at once (1)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/chaos", help="everything lies there (build/chaos)")
    parser.add_argument(
        "--keep", action="store_true", help="compare with the undisturbed studies of the run before, of the same code"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.kinds.split(",")) - KINDS.keys()
    if unknown:
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return options


def drawn(kinds: list[str], seed: int, rounds: int) -> Iterator[tuple[str, int]]:
    """Kind and seed of each round, every kind once before any is drawn; a kind with a seed is the same round again."""
    for number in range(rounds):
        rng = random.Random(seed + number)
        any_kind = rng.choices(kinds, [KINDS[kind].weight for kind in kinds])[0]
        yield kinds[number] if number < len(kinds) else any_kind, seed + number


def run_round(spec: dict[str, str], slowness: float = 1.0) -> Findings:
    """Run one round in namespaces of its own; what it printed, and what its launches said, stay in its folder."""
    folder = Path(spec["folder"])
    folder.mkdir(parents=True)
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    with (folder / "round.log").open("wb") as log:
        command, environment = command_inside("chaos.round", str(file)), environment_inside()
        done = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            done.wait(ROUND_SECONDS * slowness)
        except subprocess.TimeoutExpired:
            done.kill()
            done.wait()
    result = folder / "findings.json"
    if not result.exists():
        failed = Findings()
        failed.check("ends", False, f"the round itself ended with {done.returncode}: {_end_of(folder / 'round.log')}")
        return failed
    return Findings.of(json.loads(result.read_text()))


def _end_of(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-3:])


def prepare(folder: Path, kinds: list[str], jobs: int) -> tuple[Findings, float]:
    """Run the undisturbed studies that the kinds are compared with; also, how slow this machine is."""
    total = Findings()
    variants: list[Variant] = sorted({KINDS[kind].variant for kind in kinds} | {"plain"})
    places = {variant: str(folder / f"undisturbed-{variant}") for variant in variants}
    specs = [{"kind": "undisturbed", "variant": variant, "folder": place} for variant, place in places.items()]
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(
            run_round, [spec for spec in specs if not (Path(spec["folder"]) / "times.json").exists()]
        ):
            total.add(found)
    if total.broken:
        sys.exit("\n".join(["an undisturbed study did not do what is promised:", *total.broken]))
    times = json.loads((folder / "undisturbed-plain/times.json").read_text())
    slowness = max(1.0, times["seconds_to_training"] / QUIET_SECONDS)
    print(f"promised times are multiplied by {slowness:.1f}, as this machine is busy or slow", flush=True)
    return total, slowness


def attack(options: argparse.Namespace) -> Findings:
    """Run the rounds, some at once, and print what each found."""
    deadline = time.monotonic() + options.seconds
    kinds = options.kinds.split(",")
    for before in options.folder.glob("*"):
        if before.is_dir() and not (options.keep and (before / "times.json").exists()):
            shutil.rmtree(before)
    total, slowness = prepare(options.folder, kinds, options.jobs)

    def one(drawn: tuple[str, int]) -> Findings:
        kind, seed = drawn
        if time.monotonic() > deadline:
            return Findings()
        folder = options.folder / f"{kind}-{seed}"
        found = run_round({"kind": kind, "seed": str(seed), "folder": str(folder)}, slowness)
        held, tried = found.held.total(), found.tried.total()
        done = ", ".join(f"{count} {what}" for what, count in found.attacks.items())
        print(f"{kind} {seed}: {held} of {tried} held; {done}", flush=True)
        for broken in found.broken:
            print(f"    {broken[:500]}", flush=True)
        if found.broken:
            again = f"make chaos CHAOS='--rounds 1 --kinds {kind} --seed {seed}'"
            print(f"    again: {again}; logs in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(one, drawn(kinds, options.seed, options.rounds)):
            total.add(found)
    return total


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    total = attack(options)
    print("\n".join(["", *table(total)]))
    (options.folder / "findings.json").write_text(json.dumps(total.plain()))
    return 0 if all_held(total) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
