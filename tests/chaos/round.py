"""One round, inside namespaces of its own: `python -m chaos.round SPEC.json` writes FOLDER/findings.json."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos import disks, disturbances, kills
from chaos.compare import compare
from chaos.launches import QUIET_SECONDS, Launch, Place, left_in_temporary_directory
from chaos.namespaces import enter
from chaos.promises import Findings
from chaos.study_files import Variant, shards_of, write_study

ROUND_SECONDS = 900.0
"""A round that has not ended by then, on a quiet machine, is ended, and has failed."""


@dataclass(frozen=True)
class Kind:
    """What a round does to which variant of the study; `weight` is how often it is drawn beside the others.

    `shards`: the images are sharded already.
    """

    attack: Callable[[Place, random.Random, Findings], None]
    weight: int
    variant: Variant = "plain"
    shards: bool = True


def _report(place: Place, rng: random.Random, findings: Findings) -> None:
    kills.kill_report_writer(place, rng, findings, place.folder.parent / "undisturbed-plain" / "runs")


def _on_a_store(name: str) -> Callable[[Place, random.Random, Findings], None]:
    """An attack of `chaos.stores`, imported in the round that makes it: a mock of S3 takes seconds to import."""

    def attack(place: Place, rng: random.Random, findings: Findings) -> None:
        from chaos import stores

        getattr(stores, name)(place, rng, findings)

    return attack


KINDS: dict[str, Kind] = {
    "kill": Kind(kills.kill_and_relaunch, 8),
    "kill-part": Kind(kills.kill_part, 4),
    "kill-gang": Kind(kills.kill_and_relaunch, 1, "gang"),
    "kill-gang-part": Kind(kills.kill_part, 1, "gang"),
    "kill-search": Kind(kills.kill_and_relaunch, 1, "search"),
    "kill-sharding": Kind(kills.kill_while_sharding, 2, shards=False),
    "kill-report": Kind(_report, 1),
    "interrupt": Kind(disturbances.interrupt, 2),
    "suspend": Kind(disturbances.suspend, 2),
    "twice": Kind(disturbances.launch_twice, 1),
    "torn": Kind(disturbances.tear_files, 1),
    "torn-search": Kind(disturbances.tear_files, 1, "search"),
    "disk-small": Kind(disks.too_small, 1),
    "disk-full": Kind(disks.fills_up, 1),
    "disk-read-only": Kind(disks.becomes_read_only, 1),
    "store-away": Kind(_on_a_store("goes_away"), 2),
    "store-refuses": Kind(_on_a_store("refuses"), 1),
    "store-gone": Kind(_on_a_store("loses_bucket"), 1),
}


def undisturbed(place: Place, findings: Findings) -> None:
    """Run the study with which all others are compared; two numbers of its launch are kept beside it."""
    launch = Launch(place)
    launch.wait_for_training()
    seconds = launch.seconds
    launch.wait_for(lambda: False, ROUND_SECONDS)
    times = {"seconds_to_training": seconds, "training_seconds": launch.seconds - seconds}
    code = launch.end(findings, {0})
    assert code == 0, f"the undisturbed study ended with exit code {code}: {launch.said()[-2000:]}"
    (place.folder / "times.json").write_text(json.dumps(times))


def attacked(kind: Kind, place: Place, seed: int, findings: Findings, reference: Path) -> None:
    """Attack, and compare what is there in the end."""
    kind.attack(place, random.Random(seed), findings)
    compare(place.local, reference, findings)
    left = left_in_temporary_directory()
    findings.check("folders", not left, f"{len(left)} left: {', '.join(left[:5])}")


def main(spec: dict[str, str]) -> None:
    folder = Path(spec["folder"])
    enter(folder)
    findings, began = Findings(), time.monotonic()
    if spec["kind"] == "undisturbed":
        variant: Variant = spec["variant"]  # type: ignore[assignment]
        place = Place(write_study(folder / "study.yaml", variant), str(folder / "runs"), folder, [], 4 * QUIET_SECONDS)
        undisturbed(place, findings)
    else:
        kind = KINDS[spec["kind"]]
        reference = folder.parent / f"undisturbed-{kind.variant}"
        wanted = sorted(path.stem for path in reference.glob("runs/records/*.json"))
        source = shards_of(reference / "runs") if kind.shards else "digits"
        file = write_study(folder / "study.yaml", kind.variant, source)
        place = Place(file, str(folder / "runs"), folder, wanted, **json.loads((reference / "times.json").read_text()))
        attacked(kind, place, int(spec["seed"]), findings, reference / "runs")
    findings.measure(f"a round of {spec['kind']}", time.monotonic() - began)
    (folder / "findings.json").write_text(json.dumps(findings.plain()))
    if not findings.broken:
        shutil.rmtree(folder / "tmp", ignore_errors=True)  # Ray's logs: of a round that went well nobody reads them


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
