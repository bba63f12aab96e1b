"""What tells one process from all others, also after its pid was used again."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def process_identity(pid: int) -> str:
    """Boot, namespace of pids, pid and start of a living process, with spaces between them.

    Empty for one that has ended, and where the system has no /proc.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        state, *fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else f"{boot} {(PROC / 'self/ns/pid').readlink()} {pid} {fields[18]}"
    except OSError:
        return ""


def as_name(identity: str) -> str:
    """An identity as part of a file's name; empty for an empty one."""
    return identity.replace(" pid:[", ".").replace("] ", ".").replace(" ", ".")


def from_name(name: str) -> str:
    """The identity that `as_name` made a name of; empty for another name."""
    parts = name.split(".")
    return "{} pid:[{}] {} {}".format(*parts) if len(parts) == 4 and all(map(str.isdigit, parts[1:])) else ""


def is_of_this_machine(identity: str) -> bool:
    """Whether it is of a process of this boot and namespace, of which its own state tells whether it lives."""
    here, there = process_identity(os.getpid()).split(), identity.split()
    return len(here) == len(there) == 4 and here[:2] == there[:2] and there[2].isdigit()


def is_dead(identity: str) -> bool:
    """Whether a process is known to have ended; False for one of which nothing can be known from here."""
    return is_of_this_machine(identity) and process_identity(int(identity.split()[2])) != identity
