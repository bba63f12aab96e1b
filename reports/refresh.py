"""Writes a study's report once, the study as JSON on standard input: what a launch starts beside its trainings."""

from __future__ import annotations

import json
import signal
import sys

from reports.build import read_results, write_report
from reports.next_experiment import ReportedTrial
from reports.results import StudyInfo
from reports.storage import Storage


def main(task: str) -> None:
    """`task` is {"storage": root, "study": a `StudyInfo` as plain JSON}."""
    plain = json.loads(task)
    study = plain["study"]
    planned = {id: ReportedTrial(**trial) for id, trial in study["planned"].items()}
    storage = Storage(plain["storage"])
    write_report(storage, read_results(storage, StudyInfo(study["name"], study["question"], planned)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends in order, so that no half-written file stays
    main(sys.stdin.read())
