"""The record of a trial that has just ended, made on the machine where it ran."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
from datetime import UTC, datetime
from typing import Any

import torch

from datasets.splits import subset_hash
from reports.records import Record
from study.job import Job
from trainables.context import Context
from trainables.stage import Assignment, Outcome


def record_of(
    job: Job, assignment: Assignment, outcome: Outcome, context: Context, started_at: datetime, wall_seconds: float
) -> Record:
    """The record of a trial that has just ended on this worker, rank 0, after `wall_seconds` in all its sessions."""
    manifest, fraction = assignment.manifest, outcome.label_fraction
    if assignment.dev is not None:
        fraction = max(fraction or 0.0, assignment.dev.label_fraction)
    return Record.model_validate(
        {
            "format": 1,
            "id": job.id,
            "study": job.study,
            "source": "run",
            "spec": job.trial,
            "metrics": outcome.metrics,
            "history": outcome.progress.history,
            "model": {
                "encoder_parameters": assignment.architecture.parameters(assignment.image_size),
                "parameters": outcome.parameters,
                "sha256": context.model_sha256,
            },
            "cost": {
                "wall_seconds": wall_seconds,
                "device_seconds": wall_seconds * job.workers,
                "images": outcome.progress.images,
                "train_flops": job.train_flops,
                "sessions": outcome.progress.sessions,
                "planned_device_seconds": job.planned_device_seconds,
            },
            "resources": _resources(job, outcome, context, wall_seconds),
            "data": {
                "fingerprint": manifest.fingerprint,
                "train_images": manifest.train_images,
                "labelled_images": assignment.labelled_rows(fraction) if fraction else 0,
                "test_images": manifest.test_images,
                "subset_hash": subset_hash(job.shards, manifest, fraction) if fraction else None,
            },
            "environment": _environment(job),
            "started_at": started_at,
            "finished_at": datetime.now(UTC),
            "selections": job.selections,
        }
    )


def _resources(job: Job, outcome: Outcome, context: Context, wall_seconds: float) -> dict[str, Any]:
    seconds_on = outcome.progress.seconds_on(wall_seconds)
    on_gpu = context.device.type == "cuda"
    return {
        "workers": job.workers,
        "per_worker": job.per_worker,
        "device": torch.cuda.get_device_name(context.device) if on_gpu else "cpu",
        "tf32": job.tf32 if on_gpu else None,
        "channels_last": job.channels_last,
        "node_type": context.node_type or None,
        "seconds_on": seconds_on if len(seconds_on) > 1 else None,
        "threads": outcome.progress.layout[1],
        "earlier_layouts": outcome.progress.earlier_layouts or None,
    }


def _environment(job: Job) -> dict[str, Any]:
    libraries = ("torch", "torchvision", "ray", "numpy")
    return {
        "commit": job.commit,
        "dirty": job.dirty,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "host": socket.gethostname(),
        "python": platform.python_version(),
    }
