"""Rounds that disturb without killing: signals, suspended processes, torn files, two launches at once."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from chaos.kills import check_kept, finish, moment, records, worker
from chaos.launches import Launch, Place
from chaos.namespaces import others
from chaos.promises import Findings

INTERRUPTED_SECONDS = 10.0
BUSY_SECONDS = 3.0
"""What a busy machine may add to a time that is promised."""


def interrupt(place: Place, rng: random.Random, findings: Findings) -> None:
    """Ctrl-C, which all processes in front of a terminal get, or SIGTERM to the driver."""
    for _ in range(2):
        launch, number = Launch(place), rng.choice([signal.SIGINT, signal.SIGTERM])
        if not moment(launch, rng):
            launch.end(findings, {0})
            break
        kept, began = records(place), time.monotonic()
        if number == signal.SIGINT:
            os.killpg(launch.process.pid, number)
        else:
            launch.process.send_signal(number)
        findings.attacks["Ctrl-C" if number == signal.SIGINT else "SIGTERM"] += 1
        launch.wait_for(lambda: False, 60 * place.slowness)
        seconds, said = time.monotonic() - began, launch.said().lower()
        findings.measure("from Ctrl-C or SIGTERM to the end of a launch", seconds)
        in_time = seconds < INTERRUPTED_SECONDS * place.slowness + BUSY_SECONDS
        findings.check("interrupted", in_time, f"{launch.name.name}: {number.name} took {seconds:.1f} s")
        unbegun = set() if place.has_begun(launch.began_at) else {-signal.SIGTERM}  # it still reads its program
        code = launch.end(findings, {128 + number, 0} | unbegun)
        if code is not None and code > 0:
            findings.check("interrupted", "interrupted" in said, f"{launch.name.name} does not say so")
        check_kept(place, kept, findings)
    check_status(place, findings)
    finish(place, findings)


def check_status(place: Place, findings: Findings) -> None:
    """No launch lives, so that no trial runs."""
    status = Launch(place, command="status")
    status.end(findings, {0, 1})
    running = [line for line in status.said("out").splitlines() if line.startswith("running:")]
    findings.check("status", not running, f"{status.name.name}: {running[:1]}")


def suspend(place: Place, rng: random.Random, findings: Findings) -> None:
    """SIGSTOP, and SIGCONT some seconds later: as when a laptop sleeps, or a machine swaps."""
    launch = Launch(place)
    for _ in range(2):
        if not moment(launch, rng):
            break
        who = rng.choice(["the driver", "a worker", "everything"])
        driver = psutil.Process(launch.process.pid)
        found = {"the driver": [driver], "a worker": [worker(rng) or driver], "everything": others()}[who]
        _send(found, signal.SIGSTOP)
        findings.attacks[f"SIGSTOP of {who}"] += 1
        time.sleep(rng.uniform(0.5, 6.0))
        _send(found, signal.SIGCONT)
    launch.end(findings, {0})
    finish(place, findings)


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            process.send_signal(number)


def launch_twice(place: Place, rng: random.Random, findings: Findings) -> None:
    """Two launches on one storage, at once or some seconds apart."""
    first = Launch(place)
    time.sleep(rng.choice([0.0, 0.0, rng.uniform(0.0, 2.0), rng.uniform(2.0, 12.0)]))
    second = Launch(place)
    findings.attacks["a second launch on the storage"] += 1
    for launch in (first, second):
        launch.wait_for(lambda: False, 200 * place.slowness)
    codes = sorted(str(launch.process.poll()) for launch in (first, second))
    findings.check("one driver", codes in (["0", "2"], ["0", "0"]), f"exit codes {codes}")
    for launch in (first, second):
        launch.check_words(findings)
        if launch.process.poll() == 2:
            said = launch.said()
            named = "pid" in said and "chaos-" in said
            findings.check("one driver", named, f"{launch.name.name} does not name the other: {said[-200:]!r}")
    first.check_remains(findings)
    finish(place, findings)


def tear_files(place: Place, rng: random.Random, findings: Findings) -> None:
    """After a kill, files that a driver or a worker was writing are cut, filled with zeros, or hold anything."""
    launch = Launch(place)
    alive = moment(launch, rng)
    launch.kill_everything()
    launch.end(findings, {-signal.SIGKILL} if alive else {-signal.SIGKILL, 0})
    for name, pattern in (
        ("progress", "checkpoints/*/progress.json"),
        ("lease", "lease/*.json"),
        ("journal", "search/journal.log"),
    ):
        for path in place.local.glob(pattern):
            _tear(path, rng)
            findings.attacks[f"a torn {name}"] += 1
    check_status(place, findings)
    finish(place, findings)


def _tear(path: Path, rng: random.Random) -> None:
    """A journal's lines are on the disk once they are whole: only what follows them can be torn."""
    content = path.read_bytes()
    whole, torn = b"", content
    if path.suffix == ".log":
        whole, torn = content, content.splitlines()[-1] if content else b""
    cut = torn[: rng.randrange(len(torn) + 1)]
    path.write_bytes(whole + rng.choice([cut, cut + bytes(rng.randint(1, 4096)), rng.randbytes(40)]))
