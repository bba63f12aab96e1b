"""Names of files for what people name as they like, valid and different on every file system and in every URL."""

from __future__ import annotations

import hashlib
import re

MOST_CHARACTERS = 80
RESERVED = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
)
"""Names of devices on Windows, with any ending."""


def is_reserved(name: str) -> bool:
    """Whether Windows keeps a name for a device."""
    return name.partition(".")[0].lower() in RESERVED


def file_name(name: str) -> str:
    """A file's name for any name, at most 95 characters of ASCII.

    A name of small letters, digits and `._-` is its own; any other has what it has of these (and capital letters), and
    eight digits of its SHA-256, so that different names have different files also where capitals make no difference.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:MOST_CHARACTERS].rstrip(".-")
    if safe == name and name == name.lower() and not is_reserved(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"study-{digest}" if not safe or is_reserved(safe) else f"{safe}-{digest}"
