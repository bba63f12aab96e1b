"""Google Cloud: spot and preemptible machines are told of their end 30 seconds ahead, by their metadata server."""

from __future__ import annotations

import os
import time

from study.clouds.notice import SERVICE, PreemptionNotice, text_at

AHEAD_SECONDS = 30.0
"""From the notice to the machine's end."""

FLAVOR = {"Metadata-Flavor": "Google"}
"""The header that every question has to have, and that every answer of Google's has."""


def preemption_notice() -> PreemptionNotice:
    """What Compute Engine tells this machine of its end. Two variables that Google's own tools know change it:
    `GCE_METADATA_HOST` is the server's name and port, and `NO_GCE_CHECK=true` turns it off.

    The server is asked again and again. It could also answer when something changes (`?wait_for_change=true`), but a
    worker would have to wait for that at its own end.
    """
    host = os.environ.get("GCE_METADATA_HOST")
    url = f"http://{host}" if host else SERVICE
    disabled = os.environ.get("NO_GCE_CHECK", "").lower() == "true"
    return PreemptionNotice(lambda: _deadline(url), disabled=disabled)


def _deadline(url: str) -> float | None:
    """Raises ConnectionError where it is another cloud that answers at this address."""
    told, headers = text_at(f"{url}/computeMetadata/v1/instance/preempted", FLAVOR)
    if headers.get("Metadata-Flavor") != "Google":
        raise ConnectionError("this is not Google's metadata server")
    if told.strip() not in ("TRUE", "FALSE"):
        raise ValueError(f"expected TRUE or FALSE, found {told!r}")
    return time.time() + AHEAD_SECONDS if told.strip() == "TRUE" else None
