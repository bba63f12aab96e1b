"""Who claims a storage: small files in it, each of one driver, whose times tell how old they are."""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Annotated

import pyarrow
from pyarrow import fs
from pydantic import Field, TypeAdapter

from datasets.object_store import patiently
from datasets.typed_files import BadFileError
from reports.storage import Storage
from study.process import as_name, from_name, is_dead, is_of_this_machine, process_identity

STALE_SECONDS = 60.0
"""Seconds without renewal after which a claim is dead: six heartbeats."""

CLOCKS_SECONDS = 60.0
"""Seconds by which the clocks of the storage and of a reader may differ; a reader writes nothing to compare them."""


Text = Annotated[str, Field(max_length=2_000)]


@dataclass(frozen=True)
class DriverClaim:
    """Who claims a storage; `process` tells processes of one machine apart, also where a pid was used again."""

    study: Text
    host: Text
    pid: int
    process: Text
    since: Text
    job: Text = ""
    name: Text = field(default_factory=lambda: _new_name())
    held: bool = False

    def __str__(self) -> str:
        if not self.since:
            pid = f", pid {self.pid} of this machine" if is_of_this_machine(self.process) else ""
            return f"a driver whose claim cannot be read{pid}"
        job = f"job {self.job} of " if self.job else ""
        return f"{job}the study {self.study!r} on host {self.host}, pid {self.pid}, since {self.since}"


def _new_name() -> str:
    """A name that no other claim has, from which its process can be told, also where the file is torn."""
    return f"{uuid.uuid4().hex}.{as_name(process_identity(os.getpid()))}".rstrip(".")


_CLAIM = TypeAdapter(DriverClaim)  # it checks types, and passes over what another version of the code adds


def written_claims(storage: Storage) -> dict[str, float]:
    """Names of all claims, and when they were written, in seconds of the storage's own clock."""
    selector = fs.FileSelector(storage.path("lease"), allow_not_found=True)
    infos = patiently(storage.filesystem, lambda: storage.filesystem.get_file_info(selector), storage.root, patience=0)
    files = [info for info in infos if info.type == fs.FileType.File and not info.base_name.startswith(".")]
    return {info.base_name.removesuffix(".json"): info.mtime_ns / 1e9 for info in files}


def read_claim(storage: Storage, name: str) -> DriverClaim | None:
    """A claim; None if it was withdrawn. One that is torn, or of a version of the code that writes other claims, counts
    as held by the process that its name tells, or by somebody on another machine; it is not known since when, and it
    takes over from nobody."""
    process = from_name(name.partition(".")[2])
    pid = int(process.split()[2]) if process else 0
    unknown = DriverClaim(study="", host="", pid=pid, process=process, since="", name=name, held=True)
    try:
        claim = storage.read_typed(_CLAIM, "lease", file_of(name))
    except FileNotFoundError:
        return None
    except BadFileError:
        return unknown
    return claim if claim.name == name else unknown


def write_claim(storage: Storage, claim: DriverClaim) -> None:
    storage.write_bytes(json.dumps(asdict(claim)).encode(), "lease", file_of(claim.name))


def withdraw(storage: Storage, claim: DriverClaim) -> None:
    """Delete one's claim. Where the storage is gone it ends by itself, and the reason why the driver ends counts."""
    with suppress(OSError, pyarrow.ArrowException):
        storage.delete("lease", file_of(claim.name))


def file_of(name: str) -> str:
    return f"{name}.json"


def living_driver(storage: Storage) -> DriverClaim | None:
    """Who holds a storage's lease and lives, as far as can be known without a claim of one's own."""
    now = time.time()
    for name, written in written_claims(storage).items():
        claim = read_claim(storage, name)
        if claim is None or not claim.held or is_dead(claim.process):
            continue
        if is_of_this_machine(claim.process) or now - written < CLOCKS_SECONDS + STALE_SECONDS:
            return claim
    return None
