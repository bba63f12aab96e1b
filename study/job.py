"""What a worker is told of the trial that it is to run."""

from __future__ import annotations

from pydantic import Field, JsonValue

from trainables.spec import Spec


class Job(Spec):
    """Everything a worker needs to run one trial; crosses the process line as JSON.

    `steps`, `fingerprint` (of the images) and `subset_hash` (of the labels to be read, null: none) are what was
    planned; a worker that finds anything else fails the trial. At `rungs` points (0: none) the launch is asked whether
    a trial is worth going on with. `selections` are the choices on which it rests, `planned_device_seconds` is what the
    launch expects. `launched_at` names the launch, in ISO format. `deaths` is how often its process was killed in it.
    """

    id: str
    study: str
    trial: dict[str, JsonValue]
    storage: str
    shards: str
    workers: int
    per_worker: dict[str, float]
    tf32: bool
    channels_last: bool
    min_effective_rank: float
    checkpoint_seconds: float
    steps: int
    rungs: int = 0
    selections: list[JsonValue] = Field(default=[])
    fingerprint: str
    subset_hash: str | None
    train_flops: float
    planned_device_seconds: float | None = None
    launched_at: str
    preemption_retries: int = 0
    crash_retries: int = 0
    deaths: int = 0
    commit: str
    dirty: bool
