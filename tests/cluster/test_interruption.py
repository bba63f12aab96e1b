"""Nodes that are taken away: what the cloud announces, what makes a checkpoint, and what is not tried again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import trials
from reports.storage import Storage
from reports.stored import read_failures
from study.failures import NoNodesError, failed_for_good, note_error
from study.interruption import TRIES, SpotNotice, deaths_before
from trainables.checkpoint import load_state
from trainables.context import Context
from trainables.stages import run_stage

LAUNCH = "2026-03-01T12:00:00+00:00"


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, version 2: a token first, then 404 until there is a notice."""

    notice: str | None = None
    asked: int = 0
    fault: str = ""

    def do_PUT(self) -> None:
        type(self).asked += self.fault != ""
        if self.fault == "silence":
            return
        granted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self._answer(200 if granted else 403, "a-token")

    def do_GET(self) -> None:
        type(self).asked += 1
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self._answer(401, "")
        elif self.notice is None:
            self._answer(404, "")
        else:
            self._answer(200, self.notice)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text) + (self.fault == "cut short")))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    class Fresh(Metadata):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


def test_spot_notice_of_the_cloud_is_read(metadata: type[Metadata]) -> None:
    cloud = SpotNotice()
    assert cloud.deadline() is None and cloud.deadline() is None and metadata.asked == 2
    metadata.notice = json.dumps({"action": "terminate", "time": "2026-03-01T08:22:00Z"})
    assert cloud.deadline() == datetime(2026, 3, 1, 8, 22, tzinfo=UTC).timestamp()


def test_machine_outside_of_the_cloud_has_no_notice(monkeypatch: pytest.MonkeyPatch, metadata: type[Metadata]) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert SpotNotice().deadline() is None and metadata.asked == 0
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    assert SpotNotice().deadline() is None


FAULTS = ["silence", "cut short"]
END = json.dumps({"action": "stop", "time": "2099-03-01T08:22:00Z"})


@pytest.mark.parametrize("fault", FAULTS)
def test_service_that_never_answered_is_asked_no_more_after_a_few_tries(metadata: type[Metadata], fault: str) -> None:
    metadata.fault = fault
    cloud = SpotNotice()
    assert [cloud.deadline() for _ in range(2 * TRIES)] == [None] * 2 * TRIES and metadata.asked == TRIES
    metadata.fault, metadata.notice = "", END
    assert cloud.deadline() is None


@pytest.mark.parametrize("fault", FAULTS)
def test_service_that_answered_once_is_asked_for_ever(metadata: type[Metadata], fault: str) -> None:
    cloud = SpotNotice()
    assert cloud.deadline() is None
    metadata.fault, metadata.notice = fault, END
    assert [cloud.deadline() for _ in range(2 * TRIES)] == [None] * 2 * TRIES
    metadata.fault = ""
    assert cloud.deadline() == datetime(2099, 3, 1, 8, 22, tzinfo=UTC).timestamp()


def test_notice_that_is_not_understood_is_told_once_and_the_next_one_is_read(
    metadata: type[Metadata], caplog: pytest.LogCaptureFixture
) -> None:
    cloud = SpotNotice()
    for notice in ("<html>", "[]", "{}", '{"action": "stop", "time": 5}', '{"action": "stop", "time": "soon"}'):
        metadata.notice = notice
        assert cloud.deadline() is None
    assert len(caplog.records) == 1 and "not understood" in caplog.text
    metadata.notice = END
    assert cloud.deadline() is not None


WATCHING = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def trial():
    from study import interruption
    interruption.NOTICE_SECONDS = 0.2
    with interruption.watching("a launch") as notices:
        return notices.goes.wait(60), interruption.draining_nodes() == {interruption.this_node()}

print(*ray.get(trial.remote()))
"""


def test_worker_learns_of_its_end_from_the_cloud_and_tells_ray(metadata: type[Metadata]) -> None:
    """The first notice is of a time before 1970, which Ray refuses: that does not end the watch."""
    metadata.notice = json.dumps({"action": "stop", "time": "1960-01-01T00:00:00Z"})
    with subprocess.Popen([sys.executable, "-c", WATCHING], stdout=subprocess.PIPE, text=True) as trial:
        deadline = time.monotonic() + 60
        while metadata.asked < 4 and trial.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        asked, metadata.notice = metadata.asked, END
        said, _ = trial.communicate(timeout=90)
    assert asked >= 4, "nobody asked the metadata service, or not again after the first notice"
    assert said == "True True\n"


def test_notice_makes_one_checkpoint_at_once(shards: str, tmp_path: Path) -> None:
    done = [0.0]
    steps: list[int] = []

    class Watched(Context):
        def save_checkpoint(self, state: dict[str, object]) -> None:
            steps.append(state["progress"]["step"])  # type: ignore[index]
            super().save_checkpoint(state)

    context = Watched(str(tmp_path), checkpoint_seconds=1000, report=lambda share: done.__setitem__(0, share))
    context.notice = lambda: done[0] >= 0.5
    run_stage("pretrain", trials.assignment(shards, trials.settings("pretrain")), context)
    assert steps == [3, 6], "at half of six steps, and the last one"
    saved = load_state(f"{tmp_path}/latest.pt")
    assert saved is not None and saved["progress"]["step"] == 6


def test_trial_that_failed_in_this_launch_is_not_tried_again_in_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert deaths_before(storage, "t", LAUNCH, crash_retries=2) == 0
    note_error(storage, "t", RuntimeError("no"), LAUNCH)
    assert deaths_before(storage, "t", LAUNCH, crash_retries=2) is None
    later = "2025-12-31T23:59:59+00:00"  # by the clock of another head, which is slow
    assert later < LAUNCH and deaths_before(storage, "t", later, crash_retries=2) == 0, "a later launch tries it"


def test_trial_without_nodes_ends_its_launch_and_later_ones_try_it_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    note_error(storage, "failed", ArithmeticError("the loss is not finite"))
    note_error(storage, "waited", NoNodesError("there was no room"), LAUNCH)
    assert deaths_before(storage, "waited", LAUNCH, crash_retries=2) is None
    assert set(failed_for_good(storage, ["failed", "waited"])) == {"failed"}


RETRIED = """
import sys, ray
from reports.storage import Storage
from study.interruption import deaths_before, this_node
from reports.progress import Progress
from study.progress import write_progress
storage, launch = Storage(sys.argv[1]), sys.argv[2]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
here, lost = this_node(), "f" * 56
cases = {"once": (here, launch, 0), "often": (here, launch, 1), "earlier": (here, "2025", 1), "lost": (lost, launch, 1)}
for id, (node, of, deaths) in cases.items():
    write_progress(storage, id, Progress(0.5, 0.0, of, node, deaths=deaths))
    print(id, deaths_before(storage, id, launch, crash_retries=1))
"""


def test_process_that_died_alone_is_tried_again_as_often_as_is_said_and_one_that_died_with_its_node_always(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", RETRIED, str(tmp_path), LAUNCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["once 1", "often None", "earlier 0", "lost 1"], done.stderr
    [failure], _ = read_failures(Storage(str(tmp_path)))
    assert failure.id == "often" and failure.error_type == "ProcessDied" and "(killed 2 times)" in failure.message
