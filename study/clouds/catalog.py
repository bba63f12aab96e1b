"""The clouds that are asked whether they take a machine away."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from study.clouds import aws, gcp
from study.clouds.notice import PreemptionNotice

CLOUDS = (aws.preemption_notice, gcp.preemption_notice)


def preemption_notices() -> list[PreemptionNotice]:
    """One notice of each cloud: whose machine this is shows when one of them answers."""
    return [notice_of() for notice_of in CLOUDS]


def first_deadline(notices: Sequence[PreemptionNotice], executor: Executor) -> float | None:
    """When this machine ends, in seconds since the epoch; None if no cloud tells it to. All are asked at once."""
    told = executor.map(PreemptionNotice.deadline, notices)
    return min((deadline for deadline in told if deadline is not None), default=None)
