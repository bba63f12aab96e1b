"""Nodes that are taken away: what the cloud announces, what makes a checkpoint, and what is not tried again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import trials
from reports.records import read_failures
from reports.storage import Storage
from study.failures import note_error
from study.interruption import SpotNotice, ended_before
from trainables.checkpoint import load_state
from trainables.context import Context
from trainables.stages import run_stage

LAUNCH = "2026-03-01T12:00:00+00:00"


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, version 2: a token first, then 404 until there is a notice."""

    notice: str | None = None
    asked: int = 0

    def do_PUT(self) -> None:
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
        self.send_header("Content-Length", str(len(text)))
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
    assert not ended_before(storage, "t", LAUNCH)
    note_error(storage, "t", RuntimeError("no"))
    assert ended_before(storage, "t", LAUNCH)
    assert not ended_before(storage, "t", "2999-01-01T00:00:00+00:00"), "a later launch tries it"


RETRIED = """
import sys, ray
from reports.storage import Storage
from study.interruption import ended_before, this_node
from study.progress import write_progress
storage, launch = Storage(sys.argv[1]), sys.argv[2]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
for id, node, of in (("alone", this_node(), launch), ("earlier", this_node(), "2025"), ("lost", "f" * 56, launch)):
    write_progress(storage, id, 0.5, of, node)
    print(id, ended_before(storage, id, launch))
"""


def test_process_that_died_alone_is_not_tried_again_and_one_that_died_with_its_node_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RETRIED, str(tmp_path), LAUNCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["alone True", "earlier False", "lost False"], done.stderr
    [failure], _ = read_failures(Storage(str(tmp_path)))
    assert failure.id == "alone" and failure.error_type == "ProcessDied"
