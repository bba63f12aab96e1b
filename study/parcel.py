"""What a launch takes along to a cluster: the code, the study, variables; and what cannot travel is refused."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from datasets.manifest import has_manifest
from datasets.schema import BUILT_IN_NAMES
from datasets.urls import absolute, is_local
from reports.storage import Storage
from study.cluster import COMMIT_VARIABLE, JOB_VARIABLE, SETTINGS_OF_RAY, git_state
from study.config import Data, Study
from study.trial import DataIdentity
from study.upload import Upload, copy_code

STUDY_FILE = "study.yaml"

FORWARDED = "NCCL_"
"""Variables that begin so are the launch's and its workers', as on one machine."""


def write_tree(tree: Path, study_text: str) -> Upload:
    """The code and the study, and nothing else of the checkout; returns what the code is."""
    upload = copy_code(tree)
    (tree / STUDY_FILE).write_text(study_text, encoding="utf-8")
    return upload


def job_variables(id: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job's processes get; `environment` is the one that it is launched in."""
    commit, dirty = git_state()
    return {
        **{name: value for name, value in environment.items() if name.startswith(FORWARDED)},
        **SETTINGS_OF_RAY,
        COMMIT_VARIABLE: f"{commit} dirty" if dirty else commit,
        JOB_VARIABLE: id,
        "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C does: trials end, the lease is given back
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }


def check_source_travels(study: Study, storage: Storage) -> None:
    """Refuse images that only this machine sees, unless the storage has their shards.

    Beside a storage in a folder that all nodes share, an absolute path is believed to be of such a folder too; beside
    one on an object store, only a `file://` URL is.

    Raises:
        ValueError: the source is a folder of this machine; the message has the command that shards it.
    """
    data = study.data
    if data.source in BUILT_IN_NAMES or not is_local(data.source):
        return
    shards = storage.uri("data", DataIdentity.of(data).folder())
    if has_manifest(shards) or (storage.is_local and data.source.startswith("/")):
        return
    found = f"data.source is {data.source!r}, a path of this machine, which the nodes of a cluster may not have"
    if storage.is_local:
        raise ValueError(f"{found}; give the absolute path of a folder that all nodes share, or a URL")
    path = absolute(data.source)
    shared = f"If all nodes do have it, set data.source to {Path(path).as_uri()}"
    if has_manifest(path):
        raise ValueError(f"{found}. Copy its shards into the storage, to {shards}, where a launch finds them. {shared}")
    command = shard_command(data, shards)
    raise ValueError(
        f"{found}. Write its images into the storage as shards, where a launch finds them: `{command}`. {shared}"
    )


def shard_command(data: Data, shards: str) -> str:
    """The command that writes a study's shards to a folder or URL."""
    words = ["python", "-m", "study", "shard", data.source, shards]
    limits = {"--train-limit": data.train_limit, "--test-limit": data.test_limit}
    chosen = {"--label-seed": data.label_seed or None, **limits}
    return shlex.join(
        words + [word for name, value in chosen.items() if value is not None for word in (name, str(value))]
    )
