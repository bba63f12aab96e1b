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

import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow

from datasets.disk import DiskError
from datasets.object_store import REFUSED_SECONDS, UnusableError
from reports.storage import Storage
from study.claim import STALE_SECONDS, DriverClaim, file_of, read_claim, withdraw, write_claim, written_claims
from study.cluster import JOB_VARIABLE
from study.ending import interrupt_main
from study.process import is_dead, is_of_this_machine, process_identity

HEARTBEAT_SECONDS = 10.0
CUT_OFF_SECONDS = 1800.0
"""Seconds after which a driver ends whose heartbeat does not reach the storage. In most outages nobody else reaches it
either, and no claim can be taken over; but where only this driver is cut off, another one may train the same trials
anew meanwhile. So it costs devices' time to wait longer, and an outage that lasts longer to wait no more."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at the claim of a driver that may have died."""

SETTLE_SECONDS = 5.0
"""Of two drivers that start in the same moment one withdraws; these are the seconds that the other one waits for it."""


_MADE: set[str] = set()
"""Names of the claims of this program: one of this process that is none of them is of the program that was here before
it began anew (`study.ray_loss`)."""


class Lease:
    """The lease as its holder sees it; `lost` says why it no longer holds it."""

    def __init__(
        self,
        storage: Storage,
        claim: DriverClaim,
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
        withdraw(self._storage, self._claim)

    def _renew(self) -> None:
        renewed, told, refused_at = _uptime(), False, math.inf
        while not self._over.wait(self._heartbeat_seconds):
            try:
                self.lost = self._taken_over(_uptime() - renewed)
                if self.lost is None:
                    write_claim(self._storage, self._claim)
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

    def _taken_over(self, silent: float) -> str | None:
        """Why the lease is lost that was renewed so many seconds ago; None if it is held."""
        mine = self._claim
        claims = written_claims(self._storage)
        if mine.name not in claims:
            self._storage.check_there()
            if silent < self._stale_seconds:
                return (
                    f"files of the storage {self._storage.root} were deleted while this launch ran, its claim among "
                    "them; see what is left, then launch again"
                )
            return f"another driver has taken over the storage {self._storage.root}; this one was suspended too long"
        for other in claims.keys() - {mine.name}:
            claim = read_claim(self._storage, other)
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


@dataclass(frozen=True)
class _Rival:
    """Another driver's claim; `beat` is when it was renewed by the storage's clock, `age` the seconds since then."""

    claim: DriverClaim
    beat: float
    age: float


def _acquire(storage: Storage, study: str, say: Callable[[str], object], stale_seconds: float) -> DriverClaim:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    mine = DriverClaim(
        study, socket.gethostname(), os.getpid(), process_identity(os.getpid()), since, os.environ.get(JOB_VARIABLE, "")
    )
    _MADE.add(mine.name)
    deadline = time.monotonic() + SETTLE_SECONDS
    silent: dict[str, float] = {}  # claims held on other machines that were not renewed since they were first seen
    try:
        while True:
            write_claim(storage, mine)
            rivals = _rivals(storage, mine, stale_seconds)
            if rivals is None:
                continue
            if not rivals:
                held = DriverClaim(**{**asdict(mine), "held": True})
                write_claim(storage, held)
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
        withdraw(storage, mine)
        raise


def _in_use(storage: Storage, rival: _Rival, stale_seconds: float) -> str:
    return (
        f"the storage {storage.root} is in use by {rival.claim} (last heartbeat {rival.age:.0f} s ago; if it died, its "
        f"lease ends by itself {stale_seconds:.0f} s after that)"
    )


def _rivals(storage: Storage, mine: DriverClaim, stale_seconds: float) -> list[_Rival] | None:
    """Living claims of others; dead ones are deleted.

    None if one's own claim is not there: it was taken for dead, as this process was suspended since it wrote it.
    """
    written = written_claims(storage)
    if mine.name not in written:
        return None
    rivals = []
    for name in written.keys() - {mine.name}:
        claim = read_claim(storage, name)
        if claim is None:  # withdrawn meanwhile
            continue
        age = written[mine.name] - written[name]
        if age > stale_seconds or is_dead(claim.process) or (claim.process == mine.process and name not in _MADE):
            storage.delete("lease", file_of(name))
        else:
            rivals.append(_Rival(claim, written[name], max(0.0, age)))
    return rivals


def _uptime() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
