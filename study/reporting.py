"""What a study tells its report, and the report that a launch refreshes while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import IO, Any

from reports.build import FORMATS, parse_formats, write_file, write_report
from reports.export import ImageError
from reports.message import complain
from reports.next_experiment import ReportedTrial
from reports.page import build_template
from reports.progress import Progress
from reports.results import Results, StudyInfo
from reports.running import read_running, with_running
from reports.settings import variant_of
from reports.storage import Storage
from study.claim import living_driver
from study.plan import Plan, PlannedTrial
from study.private_ray import without_tokens
from study.upload import ROOT

REFRESH_SECONDS = 30.0
RUNNING_SECONDS = 120.0  # where no trial has ended, and only those that run have come further
RECORDS_A_SECOND = 20  # each report reads all records again: on average no more, so that big studies refresh rarely
NICENESS = 10  # trainings come first


def study_info(plan: Plan) -> StudyInfo:
    """Name, question and planned trials; a student has its teacher's label fraction and head layer unless it names
    its own."""
    planned: dict[str, ReportedTrial] = {}
    for id, trial in plan.trials.items():  # parents first
        spec, parent = trial.spec, planned.get(trial.spec.parent or "")
        known: dict[str, Any] = {}
        for name in ("label_fraction", "head_layer", "temperature"):
            own = getattr(spec.settings, name, None)
            inherited = None if parent is None or name == "temperature" else getattr(parent, name)
            known[name] = inherited if own is None else own
        planned[id] = ReportedTrial(
            id=id,
            stage=spec.stage,
            architecture=spec.architecture,
            seed=spec.seed,
            parent=spec.parent,
            train_flops=trial.train_flops,
            dev=spec.dev is not None,
            variant=variant_of("run", spec.plain(), spec.parent if parent is None else parent.variant),
            **known,
        )
    return StudyInfo(plan.study.name, plan.study.question, planned)


class Refresher:
    """Rewrites a study's report in a process of its own, of low priority: a launch neither waits for it nor fails."""

    def __init__(self, plan: Plan, storage: Storage, task: IO[bytes], since: str = "") -> None:
        """`task` is an empty file; a pipe would block until the other process has started to read. `since`: when the
        launch began."""
        self.plan, self.storage, self.task, self.since = plan, storage, task, since
        self.process: subprocess.Popen[bytes] | None = None
        self.shown = len(plan.finished)
        self.not_before = self.not_alike_before = 0.0

    def refresh(self, ended: int, trials: dict[str, PlannedTrial], *, running: bool = False) -> None:
        """Start a new report of the trials planned by now, unless the last one was just begun or is not written yet,
        or none has ended since. If any is `running`, there is a new one from time to time nevertheless."""
        now = time.monotonic()
        too_early = now < self.not_before
        unchanged = ended == self.shown and (not running or now < self.not_alike_before)
        if unchanged or too_early or (self.process is not None and self.process.poll() is None):
            return
        try:
            info = study_info(replace(self.plan, trials=trials))
            task = {"storage": self.storage.root, "study": asdict(info), "since": self.since}
            self.task.seek(0)
            self.task.truncate()
            self.task.write(json.dumps(task).encode())
            self.task.flush()
            self.task.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reports.refresh", str(os.getpid())],
                cwd=ROOT,
                stdin=self.task,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**without_tokens(os.environ), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the launch, which then ends this process
            )
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)
        except OSError:  # no memory for a process, say: the report is written at the end in any case
            return
        self.shown, self.not_before = ended, time.monotonic() + ended / RECORDS_A_SECOND
        self.not_alike_before = time.monotonic() + max(RUNNING_SECONDS, 2 * ended / RECORDS_A_SECOND)

    def stop(self) -> None:
        """End a report that is being written, so that the last one is not overwritten by an older one."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def refreshing(plan: Plan, storage: Storage, since: str = "") -> Iterator[Refresher]:
    with tempfile.TemporaryFile() as task:
        refresher = Refresher(plan, storage, task, since)
        try:
            yield refresher
        finally:
            refresher.stop()


def write_reports(storage: Storage, results: Results, output: str | None, formats: str | None) -> int:
    """Write a report and print the paths; 1 where images were asked for and cannot be drawn, everything else is then
    there.

    `output` alone names one file, and its ending chooses the format; beside `formats` its ending does not count.
    """
    if output is not None and formats is None:
        print(write_file(results, output))
        return 0
    ending = PurePosixPath(output or "").suffix
    known = ending.lower().removeprefix(".") in (*FORMATS, "htm")
    stem = output.removesuffix(ending) if output is not None and known else output
    for kind in parse_formats("html" if formats is None else formats):
        try:
            for path in write_report(storage, results, kind, stem):
                print(path)
        except ImageError as error:  # images come last, and what one format lacks the next one lacks too
            complain(f"error: {error}; everything but images is written")
            return 1
    return 0


def running_now(storage: Storage, unfinished: Iterable[str]) -> dict[str, Progress]:
    """What trials tell that run in a launch that lives."""
    driver = living_driver(storage)
    return {} if driver is None else read_running(storage, unfinished, driver.since)


def serve_report(
    state: Callable[[], Hashable],
    results: Callable[[], Results],
    port: int,
    running: Callable[[], Mapping[str, Progress]] = dict,
) -> int:
    """Serve a report on the loopback address until Ctrl-C, its page built again when `state` has changed; what is
    `running` is put into it anew."""
    from reports.serve import LivePage, Server

    templates: dict[Hashable, str] = {}

    def build() -> str:
        if (found := state()) not in templates:
            templates.clear()
            templates[found] = build_template(results())
        return with_running(templates[found], running())

    def told() -> Hashable:
        return state(), tuple((id, one.updated_at) for id, one in running().items())

    server = Server(LivePage(told, build), port)
    print(f"serving {server.url} until Ctrl-C", flush=True)
    server.serve()
    sys.stdout.flush()
    os._exit(0)  # a page that is being built, of a storage that does not answer, is not waited for
