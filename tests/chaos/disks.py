"""Rounds on a disk that is full, becomes full, or becomes read-only; afterwards it is mended."""

from __future__ import annotations

import errno
import random
import subprocess
import time
from pathlib import Path

from chaos.disturbances import BUSY_SECONDS
from chaos.kills import check_kept, finish, moment, records
from chaos.launches import Launch, Place
from chaos.namespaces import mount
from chaos.promises import Findings

DISK_SECONDS = 5.0


def too_small(place: Place, rng: random.Random, findings: Findings) -> None:
    """A disk too small for what a study writes; then it is made larger."""
    size = rng.randint(60, 800)
    _make_disk(place, f"size={size}k")
    launch = Launch(place)
    findings.attacks["a disk that is too small"] += 1
    launch.wait_for(lambda: False, 120 * launch.place.slowness)
    _check_said(launch, findings, launch.end(findings, {0, 1, 2}), "no space left")
    mount("-o", "remount,size=1g", str(place.local))
    finish(place, findings)


def fills_up(place: Place, rng: random.Random, findings: Findings) -> None:
    """Somebody else fills the disk in mid-run; then there is space again."""
    _make_disk(place, "size=64m")
    filler = place.local / "filler"
    launch = Launch(place)
    if moment(launch, rng):
        findings.attacks["a disk that fills up"] += 1
        _attacked(launch, findings, "no space left", lambda: _fill(filler))
        filler.unlink()
    else:
        launch.end(findings, {0})
    finish(place, findings)


def becomes_read_only(place: Place, rng: random.Random, findings: Findings) -> None:
    """A disk becomes read-only in mid-run, as the kernel makes it after an error; then it is writable again."""
    _make_disk(place, "size=64m")
    launch = Launch(place)
    if moment(launch, rng):
        findings.attacks["a disk that becomes read-only"] += 1
        _attacked(launch, findings, "read-only", lambda: _forbid_writing(launch))
        mount("-o", "remount,rw", str(place.local))
    else:
        launch.end(findings, {0})
    finish(place, findings)


def _attacked(launch: Launch, findings: Findings, words: str, attack: object) -> None:
    """Do something to the disk of a launch, and check how it ends: soon, with a word, and what is finished is kept."""
    assert callable(attack)
    training = launch.place.has_begun(launch.began_at)
    attack()
    kept, began = records(launch.place), time.monotonic()
    launch.wait_for(lambda: False, 120 * launch.place.slowness)
    seconds = time.monotonic() - began
    code = launch.end(findings, {0, 1} if training else {0, 1, 2})
    check_kept(launch.place, kept, findings)
    _check_said(launch, findings, code, words)
    if code == 1 and training:  # then something is written several times a second
        findings.measure(f"from '{words}' to the end of a launch", seconds)
        in_time = seconds < DISK_SECONDS * launch.place.slowness + BUSY_SECONDS
        findings.check("disk", in_time, f"{launch.name.name}: '{words}' ended it after {seconds:.1f} s")


def _check_said(launch: Launch, findings: Findings, code: int | None, words: str) -> None:
    if code != 0:  # otherwise what was left to write fitted
        said = launch.said().lower()
        findings.check("disk", words in said, f"{launch.name.name}: '{words}' is not in {said[-300:]!r}")


def _make_disk(place: Place, options: str) -> None:
    place.local.mkdir()
    mount("-t", "tmpfs", "-o", options, "tmpfs", str(place.local))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _forbid_writing(launch: Launch) -> None:
    """A file system becomes read-only only in a moment in which no file is being written."""
    while launch.living():
        try:
            mount("-o", "remount,ro", str(launch.place.local))
            return
        except subprocess.CalledProcessError:
            time.sleep(0.01)
