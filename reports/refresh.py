"""Writes a study's report once: what a launch starts beside its trainings.

The study comes as JSON on standard input, the launch's pid as argument: it ends with the launch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

from reports.build import read_results, write_report
from reports.next_experiment import ReportedTrial
from reports.results import StudyInfo
from reports.running import read_running
from reports.storage import Storage

PARENT_SECONDS = 1.0


def main(task: str) -> None:
    """`task` is {"storage": root, "study": a `StudyInfo` as plain JSON, "since": when the launch began}."""
    plain = json.loads(task)
    study = plain["study"]
    planned = {id: ReportedTrial(**trial) for id, trial in study["planned"].items()}
    storage = Storage(plain["storage"])
    results = read_results(storage, StudyInfo(study["name"], study["question"], planned))
    write_report(storage, replace(results, running=read_running(storage, results.missing, plain["since"])))


def end_with(parent: int) -> None:
    """End this process when its parent has ended, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=[int(sys.argv[1])], daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends in order, so that no half-written file stays
    main(sys.stdin.read())
