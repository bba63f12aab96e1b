"""How far a running trial is, as its worker writes it beside the checkpoints and everyone else reads it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from reports.storage import Storage

FRESH_SECONDS = 120.0
"""A trial that has not written for so long is taken to be interrupted, not running: longer than an evaluation takes."""


@dataclass(frozen=True)
class Progress:
    """Share of the steps done, in [0, 1], when that was (seconds since the epoch), in which launch, on which node."""

    share: float
    updated_at: float
    launch: str = ""
    node: str = ""

    @property
    def fresh(self) -> bool:
        return time.time() - self.updated_at < FRESH_SECONDS


def write_progress(storage: Storage, id: str, share: float, launch: str = "", node: str = "") -> None:
    content = {"share": share, "updated_at": time.time(), "launch": launch, "node": node}
    storage.write_bytes(json.dumps(content).encode(), "checkpoints", id, "progress.json")


def read_progress(storage: Storage, id: str) -> Progress | None:
    """A trial's progress; None before its start and after its end."""
    try:
        return Progress(**storage.read_json("checkpoints", id, "progress.json"))
    except FileNotFoundError:
        return None


def clear_progress(storage: Storage, id: str) -> None:
    storage.delete("checkpoints", id, "progress.json")
