"""A machine whose memory is at its end from the start, so that Ray ends whatever it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import refuse_shared_namespaces
from test_full_disk import launch, said

from digit_shards import digits, write
from reports.storage import Storage
from reports.stored import read_failures
from test_killed import study_file

pytestmark = pytest.mark.timeout(600)

STARVED = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "250"}
"""More than a hundredth of the memory is always in use."""


def test_images_that_cannot_be_written_for_memory_end_the_launch(tmp_path: Path) -> None:
    refuse_shared_namespaces()
    process = launch(Path("study/presets/digits.yaml"), tmp_path / "runs", **STARVED)
    printed = said(process)
    assert process.returncode in (1, 2) and "Traceback" not in printed
    assert "low on memory" in printed and "ended 4 times" in printed and len(printed) < 2000


def test_trials_that_are_ended_for_memory_end_the_launch_with_the_reason(tmp_path: Path) -> None:
    refuse_shared_namespaces()
    storage = tmp_path / "runs"
    process = launch(study_file(tmp_path, write(digits(), tmp_path / "shards")), storage, **STARVED)
    printed = said(process)
    assert process.returncode == 1 and "Traceback" not in printed
    failures, _ = read_failures(Storage(str(storage)), None)
    assert failures and all("perhaps" in one.message and "memory" in one.message for one in failures)
    assert all(f"failed: {one.id}" in printed for one in failures)
