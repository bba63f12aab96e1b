"""One driver on a storage at a time: a claim in the storage that its holder renews while it lives.

Each driver writes a claim of its own name, then lists all claims, and holds the lease if no other claim lives. Of two
drivers, the one that lists last sees the other's claim, so that never both hold it; this needs no more than listings
that show every finished write, which local disks, S3, Google's and Azure's stores guarantee (NFS within the seconds of
its attribute cache). Ages are differences of two times that the storage itself noted, so that clocks may be wrong.

A driver that was suspended, or cut off from the storage, for longer than `STALE_SECONDS` may have been replaced. It
finds out at its next heartbeat that reaches the storage, and ends, so that two drivers overlap for one heartbeat at
most. Records are safe even then: they are never changed. While it is cut off it starts no trial, since it has to
delete or read files of the storage first; those that run go on.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import pyarrow
from pyarrow import fs
from pydantic import Field, TypeAdapter

from datasets.disk import DiskError
from datasets.object_store import REFUSED_SECONDS, UnusableError, patiently
from datasets.typed_files import BadFileError
from reports.storage import Storage
from study.cluster import JOB_VARIABLE
from study.ending import interrupt_main
from study.process import is_dead, is_of_this_machine, process_identity

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A claim that was not renewed for so long is dead: six heartbeats."""

CUT_OFF_SECONDS = 1800.0
"""A driver whose heartbeat does not reach the storage ends after so long. In most outages nobody else reaches it
either, and no claim can be taken over; but where only this driver is cut off, another one may train the same trials
anew meanwhile. So it costs devices' time to wait longer, and an outage that lasts longer to wait no more."""

CLOCKS_SECONDS = 60.0
"""By so much the storage's clock may differ from that of a reader, who writes nothing to compare them."""

LOOK_SECONDS = 0.5
"""So often a claim is looked at whose driver may have died."""

SETTLE_SECONDS = 5.0
"""Two drivers that start in the same moment: so long the one waits for the other, which withdraws."""


Text = Annotated[str, Field(max_length=2_000)]


@dataclass(frozen=True)
class Claim:
    """Who claims a storage; `process` tells processes of one machine apart, also where a pid was used again."""

    study: Text
    host: Text
    pid: int
    process: Text
    since: Text
    job: Text = ""
    name: Text = field(default_factory=lambda: uuid.uuid4().hex)
    held: bool = False

    def __str__(self) -> str:
        if not self.since:
            return "a driver whose claim cannot be read"
        job = f"job {self.job} of " if self.job else ""
        return f"{job}the study {self.study!r} on host {self.host}, pid {self.pid}, since {self.since}"


_CLAIM = TypeAdapter(Claim)  # it checks types, and passes over what another version of the code adds


class Lease:
    """The lease as its holder sees it; `lost` says why it no longer holds it."""

    def __init__(
        self,
        storage: Storage,
        claim: Claim,
        say: Callable[[str], object],
        heartbeat_seconds: float,
        stale_seconds: float,
        cut_off_seconds: float,
    ) -> None:
        self.lost: str | None = None
        self.refused = False  # whether it was lost by the storage's refusal
        self._storage, self._claim, self._say = storage, claim, say
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_seconds, self._cut_off_seconds = stale_seconds, cut_off_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop the heartbeat and withdraw the claim."""
        self._over.set()
        self._thread.join()
        _withdraw(self._storage, self._claim)

    def _renew(self) -> None:
        renewed, told, refused_at = _uptime(), False, math.inf
        while not self._over.wait(self._heartbeat_seconds):
            try:
                self.lost = self._taken_over()
                if self.lost is None:
                    _write(self._storage, self._claim)
                    renewed, refused_at = _uptime(), math.inf
                    if told:
                        self._say(f"{self._storage.root} answers again")
                    told = False
            except (OSError, pyarrow.ArrowException) as error:
                silent = _uptime() - renewed
                refused_at = min(refused_at, _uptime()) if isinstance(error, UnusableError) else math.inf
                if isinstance(error, DiskError) or _uptime() - refused_at >= REFUSED_SECONDS:
                    self.lost, self.refused = str(error), True
                elif silent > self._cut_off_seconds:
                    self.lost = (
                        f"the lease on {self._storage.root} could not be renewed for {silent:.0f} s: {error}; "
                        "launch again"
                    )
                elif silent > self._stale_seconds and not told:
                    self._say(
                        f"{self._storage.root} has not answered for {silent:.0f} s: what runs goes on, nothing new "
                        f"starts, and this launch ends if that lasts {self._cut_off_seconds / 60:.0f} minutes"
                    )
                    told = True
            if self.lost is not None:
                interrupt_main()
                return

    def _taken_over(self) -> str | None:
        mine = self._claim
        claims = _claims(self._storage)
        if mine.name not in claims:
            self._storage.check_there()
            return f"another driver has taken over the storage {self._storage.root}; this one was suspended too long"
        for other in claims.keys() - {mine.name}:
            claim = _read(self._storage, other)
            if claim is not None and claim.held and (claim.since, claim.name) > (mine.since, mine.name):
                return f"the storage {self._storage.root} was taken over by {claim}"
        return None


@contextmanager
def lease(
    storage: Storage,
    study: str,
    say: Callable[[str], object] = lambda text: None,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    stale_seconds: float = STALE_SECONDS,
    cut_off_seconds: float = CUT_OFF_SECONDS,
) -> Iterator[Lease]:
    """Hold the lease of a storage for the time of a block, which is interrupted if the lease is lost.

    Of a driver on another machine only its heartbeat tells whether it lives: that is waited for, and `say` is told, as
    it is of a storage that does not answer.

    Raises:
        ValueError: another driver holds it (named with host, pid and since when), or it was lost.
        UnusableError: it was lost since the storage refuses to be written.
    """
    claim = _acquire(storage, study, say, stale_seconds)
    held = Lease(storage, claim, say, heartbeat_seconds, stale_seconds, cut_off_seconds)
    try:
        yield held
    except KeyboardInterrupt:
        if held.lost is None:
            raise
    finally:
        held.release()
    if held.lost is not None:
        raise (UnusableError if held.refused else ValueError)(held.lost)


def living_driver(storage: Storage) -> Claim | None:
    """Who holds a storage's lease and lives, as far as can be known without a claim of one's own."""
    now = time.time()
    for name, written in _claims(storage).items():
        claim = _read(storage, name)
        if claim is None or not claim.held or is_dead(claim.process):
            continue
        if is_of_this_machine(claim.process) or now - written < CLOCKS_SECONDS + STALE_SECONDS:
            return claim
    return None


@dataclass(frozen=True)
class _Rival:
    """Another driver's claim; `beat` is when it was renewed by the storage's clock, `age` the seconds since then."""

    claim: Claim
    beat: float
    age: float


def _acquire(storage: Storage, study: str, say: Callable[[str], object], stale_seconds: float) -> Claim:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Claim(
        study, socket.gethostname(), os.getpid(), process_identity(os.getpid()), since, os.environ.get(JOB_VARIABLE, "")
    )
    deadline = time.monotonic() + SETTLE_SECONDS
    silent: dict[str, float] = {}  # claims held on other machines that were not renewed since they were first seen
    try:
        while True:
            _write(storage, mine)
            rivals = _rivals(storage, mine, stale_seconds)
            if rivals is None:
                continue
            if not rivals:
                held = Claim(**{**asdict(mine), "held": True})
                _write(storage, held)
                return held
            holders = [rival for rival in rivals if rival.claim.held]
            for one in holders:
                if not is_of_this_machine(one.claim.process) and one.claim.name not in silent:
                    say(_in_use(storage, one, stale_seconds) + "; waiting whether it lives")
                    silent[one.claim.name] = one.beat
            if holders and all(one.beat == silent.get(one.claim.name) for one in holders):
                time.sleep(LOOK_SECONDS)
                continue
            yields = any(rival.claim.name < mine.name for rival in rivals)
            if holders or yields or time.monotonic() > deadline:
                first = min(rivals, key=lambda rival: (not rival.claim.held, rival.claim.name))
                raise ValueError(_in_use(storage, first, stale_seconds) + ". Wait for it, or end it")
            time.sleep(random.uniform(0.05, 0.2))
    except BaseException:
        _withdraw(storage, mine)
        raise


def _in_use(storage: Storage, rival: _Rival, stale_seconds: float) -> str:
    return (
        f"the storage {storage.root} is in use by {rival.claim} (last heartbeat {rival.age:.0f} s ago; if it died, its "
        f"lease ends by itself {stale_seconds:.0f} s after that)"
    )


def _rivals(storage: Storage, mine: Claim, stale_seconds: float) -> list[_Rival] | None:
    """Living claims of others; dead ones are deleted.

    None if one's own claim is not there: it was taken for dead, as this process was suspended since it wrote it.
    """
    written = _claims(storage)
    if mine.name not in written:
        return None
    rivals = []
    for name in written.keys() - {mine.name}:
        claim = _read(storage, name)
        if claim is None:  # withdrawn meanwhile
            continue
        age = written[mine.name] - written[name]
        if age > stale_seconds or is_dead(claim.process):
            storage.delete("lease", _file(name))
        else:
            rivals.append(_Rival(claim, written[name], max(0.0, age)))
    return rivals


def _claims(storage: Storage) -> dict[str, float]:
    """Names of all claims, and when they were written, in seconds of the storage's own clock."""
    selector = fs.FileSelector(storage.path("lease"), allow_not_found=True)
    infos = patiently(storage.filesystem, lambda: storage.filesystem.get_file_info(selector), storage.root, patience=0)
    files = [info for info in infos if info.type == fs.FileType.File and not info.base_name.startswith(".")]
    return {info.base_name.removesuffix(".json"): info.mtime_ns / 1e9 for info in files}


def _read(storage: Storage, name: str) -> Claim | None:
    """A claim; None if it was withdrawn. One that is torn, or of a version of the code that writes other claims, counts
    as held by somebody on another machine, of whom it is not known since when, and who takes over from nobody."""
    unknown = Claim(study="", host="", pid=0, process="", since="", name=name, held=True)
    try:
        claim = storage.read_typed(_CLAIM, "lease", _file(name))
    except FileNotFoundError:
        return None
    except BadFileError:
        return unknown
    return claim if claim.name == name else unknown


def _write(storage: Storage, claim: Claim) -> None:
    storage.write_bytes(json.dumps(asdict(claim)).encode(), "lease", _file(claim.name))


def _withdraw(storage: Storage, claim: Claim) -> None:
    """Delete one's claim. Where the storage is gone it ends by itself, and the reason why the driver ends counts."""
    with suppress(OSError, pyarrow.ArrowException):
        storage.delete("lease", _file(claim.name))


def _file(name: str) -> str:
    return f"{name}.json"


def _uptime() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
