"""Nodes that are taken away: what the cloud announces, what makes a checkpoint, and what is not tried again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import trials
from metadata_servers import AWS, END, Metadata, running
from reports.storage import Storage
from reports.stored import read_failures
from study.failures import NoNodesError, failed_for_good, note_error
from study.interruption import deaths_before
from trainables.checkpoint import load_state
from trainables.context import Context
from trainables.stages import run_stage

LAUNCH = "2026-03-01T12:00:00+00:00"


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    with running(AWS) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{server.address}/")
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        yield server


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
