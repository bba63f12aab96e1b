"""Why a trial has no record: written beside its checkpoints, counted over its attempts, replaced by success."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime

from datasets.object_store import StorageError
from reports.records import Failure
from reports.storage import Storage
from reports.stored import read_failures, write_failure

PROCESS_DIED = "ProcessDied"
"""The error of a trial that ended without a word, which says nothing of the trial."""


class ProcessDiedError(RuntimeError):
    """Workers of a trial were killed, more often than they are tried again: this says nothing of the trial."""


class NoNodesError(RuntimeError):
    """A trial's workers got no nodes, or lost them too often: this is the cluster's failure, not the trial's."""


TRIED_AGAIN = (
    ProcessDiedError.__name__,
    *(PROCESS_DIED, NoNodesError.__name__),
    *(StorageError.__name__, "OSError", "RayTaskError(StorageError)", "RayTaskError(OSError)"),
)
"""Errors after which a later launch goes on where the trial was. A plain OSError is what pyarrow raises where an object
store does not answer, and Python where a disk is full or broken, also through Ray Data; what a trial itself does wrong
with files has names of its own, such as FileNotFoundError."""


def note_error(storage: Storage, id: str, error: BaseException, launch: str = "") -> None:
    """Write a trial's failure in a launch: the error that a worker met, not the one in which Ray Train wrapped it. If
    several workers failed, an error of the infrastructure is preferred over the trial's own."""
    workers = getattr(error, "worker_failures", None)
    causes = list(workers.values()) if workers else [error]
    infrastructure = [one for one in causes if type(one).__name__ in TRIED_AGAIN]  # others may just have lost a peer
    cause = (infrastructure or causes)[0]
    text = "".join(traceback.format_exception(cause))
    _note(storage, id, launch, type(cause).__name__, str(cause) or repr(cause), text, socket.gethostname())


def note_death(storage: Storage, id: str, launch: str, reason: str) -> None:
    """Write a failure for a trial that ended in this launch without a record or a word."""
    if failed_in(storage, id, launch):
        return
    message = f"{reason}; launch again to continue it"
    _note(storage, id, launch, PROCESS_DIED, message, "", "")


def failed_in(storage: Storage, id: str, launch: str) -> bool:
    """Whether this launch has noted a failure of a trial."""
    known, _ = read_failures(storage, [id])
    return any(failure.launch == launch for failure in known)


def failed_for_good(storage: Storage, ids: Iterable[str]) -> dict[str, Failure]:
    """Failures that are these trials' own; a trial that the infrastructure failed goes on where it was."""
    failures, _ = read_failures(storage, ids)
    return {failure.id: failure for failure in failures if failure.error_type not in TRIED_AGAIN}


def _note(storage: Storage, id: str, launch: str, error_type: str, message: str, text: str, host: str) -> None:
    known, _ = read_failures(storage, [id])
    failure = Failure(
        id=id,
        error_type=error_type,
        message=message,
        traceback=text,
        host=host,
        failed_at=datetime.now(UTC),
        attempts=1 + sum(failure.attempts for failure in known),
        launch=launch,
    )
    write_failure(storage, failure)
