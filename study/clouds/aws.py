"""AWS: spot instances are told of their end two minutes ahead, by version 2 of EC2's metadata service."""

from __future__ import annotations

import json
import os
import time
import urllib.error
from datetime import datetime

from study.clouds.notice import SERVICE, PreemptionNotice, text_at


def preemption_notice() -> PreemptionNotice:
    """What EC2 tells this instance of its end. Two variables that AWS's own tools know change it:
    `AWS_EC2_METADATA_SERVICE_ENDPOINT` is the service's URL, and `AWS_EC2_METADATA_DISABLED=true` turns it off."""
    url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", SERVICE).rstrip("/")
    disabled = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    return PreemptionNotice(lambda: _deadline(f"{url}/latest"), disabled=disabled)


def _deadline(url: str) -> float | None:
    try:
        token, _ = text_at(f"{url}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        notice, _ = text_at(f"{url}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError:  # 404: no notice
        return None
    return _end_of(notice)


def _end_of(notice: str) -> float:
    """When an instance ends by its notice, in seconds since the epoch; hibernation begins at once.

    Raises ValueError for anything else than a notice.
    """
    told = json.loads(notice)
    if not isinstance(told, dict) or not isinstance(told.get("time"), str):
        raise ValueError(f"expected an action and a time, found {notice!r}")
    return time.time() if told.get("action") == "hibernate" else datetime.fromisoformat(told["time"]).timestamp()
