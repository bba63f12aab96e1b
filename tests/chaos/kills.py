"""Rounds that kill: parts of a launch at random moments, a launch that shards, the writer of a report."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from chaos.launches import Launch, Place
from chaos.namespaces import others
from chaos.promises import Findings

MOST_LAUNCHES = 8


def moment(launch: Launch, rng: random.Random) -> bool:
    """Wait for a random moment: one in four while the launch starts, the others while it trains; whether it lives."""
    if rng.random() < 0.25:
        return launch.sleep(rng.uniform(0.1, launch.place.seconds_to_training))
    waited = rng.uniform(0.0, 0.9 * launch.place.training_seconds)
    return launch.wait_for_training() and launch.sleep(waited)


def find(word: str, rng: random.Random) -> psutil.Process | None:
    """A living process whose name or command line begins so; of several, any."""
    return rng.choice(found) if (found := [one for one in others() if _is_called(one, word)]) else None


def _is_called(process: psutil.Process, word: str) -> bool:
    try:
        return bool(process.name().startswith(word) or (process.cmdline() or [""])[0].startswith(word))
    except psutil.Error:
        return False


def worker(rng: random.Random) -> psutil.Process | None:
    """A process that runs a trial; while there is none, any worker of Ray."""
    trials = [one for one in others() if _is_called(one, "ray::") and not _is_called(one, "ray::IDLE")]
    return rng.choice(trials) if trials else find("ray::", rng)


PARTS: dict[str, Callable[[random.Random], psutil.Process | None]] = {
    "a worker": worker,
    "the raylet": lambda rng: find("raylet", rng),
    "the control store": lambda rng: find("gcs_server", rng),
}
"""What a launch outlives: it tries again, or starts Ray anew."""


def kill_and_relaunch(place: Place, rng: random.Random, findings: Findings) -> None:
    """Kill the driver or everything some times, and launch until all is done."""
    for _ in range(rng.randint(2, 4)):
        if not _kill_launch(place, rng, findings, rng.choice(["the driver", "everything"])):
            break
    finish(place, findings)


def _kill_launch(place: Place, rng: random.Random, findings: Findings, target: str) -> bool:
    """Launch and kill the launch; whether it was killed before it had ended."""
    launch = Launch(place)
    if not _alive_at_moment(launch, rng, findings):
        launch.end(findings, {0})
        return False
    kept = records(place)
    if target == "everything":
        launch.kill_everything()
    else:
        launch.process.send_signal(signal.SIGKILL)
    findings.attacks[f"SIGKILL of {target}"] += 1
    launch.end(findings, {-signal.SIGKILL})
    check_kept(place, kept, findings)
    return True


def kill_part(place: Place, rng: random.Random, findings: Findings) -> None:
    """Kill what a launch outlives, once, or a worker twice at different moments; it ends well by itself."""
    launch, part = Launch(place), rng.choice(list(PARTS))
    for _ in range(rng.randint(1, 2) if part == "a worker" else 1):
        if _alive_at_moment(launch, rng, findings) and launch.signal(PARTS[part](rng), signal.SIGKILL):
            findings.attacks[f"SIGKILL of {part}"] += 1
    launch.end(findings, {0})
    finish(place, findings)


def _alive_at_moment(launch: Launch, rng: random.Random, findings: Findings) -> bool:
    """Wait for a random moment, measuring on the way how soon a relaunch trains; whether the launch lives then."""
    first = launch.place.launches == 1
    alive = moment(launch, rng)
    if alive and not first and launch.place.has_begun(launch.began_at):
        begun = max(path.stat().st_mtime for path in launch.place.local.glob("checkpoints/*/progress.json"))
        findings.measure("until a relaunch was seen to train", begun - launch.began_at)
    return alive


def finish(place: Place, findings: Findings) -> None:
    """Launch until everything is done, which takes one launch where nothing disturbs it; measure how soon it trains.
    Where everything is done, this launch removes what a killed one has left."""
    trains = bool(place.without_record())
    launch = Launch(place)
    if trains and launch.wait_for_training():
        launch.check_again(findings)
    code = launch.end(findings, {0})
    for _ in range(MOST_LAUNCHES):
        if code == 0:
            return
        code = Launch(place, "--retry-failed").end(findings, {0})


def records(place: Place) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.local.glob("records/*.json")}


def check_kept(place: Place, kept: dict[Path, bytes], findings: Findings) -> None:
    now = records(place)
    for path, content in kept.items():
        findings.check("kept", now.get(path) == content, f"{path.name} is lost or changed")


def kill_while_sharding(place: Place, rng: random.Random, findings: Findings) -> None:
    """Kill a launch while it reads and writes images."""
    for _ in range(2):
        launch = Launch(place)
        launch.wait_for(lambda: any(place.local.glob("data/*")), place.seconds_to_training)
        if launch.wait_for(lambda: _is_sharded(place), rng.uniform(0.0, 3.0 * place.slowness)) or not launch.living():
            launch.kill_everything()
            launch.end(findings, {-signal.SIGKILL, 0})
            break
        target = rng.choice(["the driver", "everything"])
        if target == "everything":
            launch.kill_everything()
        else:
            launch.process.kill()
        findings.attacks[f"SIGKILL of {target} while sharding"] += 1
        launch.end(findings, {-signal.SIGKILL})
    finish(place, findings)


def _is_sharded(place: Place) -> bool:
    return any(place.local.glob("data/*/manifest.json"))


def kill_report_writer(place: Place, rng: random.Random, findings: Findings, finished: Path) -> None:
    """Kill the writer of a report of a finished study, over and over: its page is the old one or the new one."""
    shutil.copytree(finished, place.local, dirs_exist_ok=True)
    for page in place.local.glob("reports/*"):
        page.unlink()
    longest = 6.0 * place.slowness
    for _ in range(4):
        launch = Launch(place, command="report")
        began = time.monotonic()
        if launch.sleep(rng.uniform(0.3, longest)):
            launch.process.kill()
            findings.attacks["SIGKILL of the report's writer"] += 1
            launch.end(findings, {-signal.SIGKILL})
        else:
            launch.end(findings, {0})
            longest = time.monotonic() - began
        check_page(place, findings)
    Launch(place, command="report").end(findings, {0})
    check_page(place, findings, must_be_there=True)


def check_page(place: Place, findings: Findings, *, must_be_there: bool = False) -> None:
    pages = list(place.local.glob("reports/*.html"))
    whole = all(page.read_text(encoding="utf-8").rstrip().endswith("</html>") for page in pages)
    findings.check("page", whole and (bool(pages) or not must_be_there), "a page is cut short, or there is none")
