"""A launch whose own Ray is lost twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from test_killed import study_file
from test_ray_loss import lose, started

pytestmark = pytest.mark.timeout(600)


def test_second_loss_ends_the_launch_with_a_sentence_and_the_next_one_goes_on(shards: str, tmp_path: Path) -> None:
    file, storage = study_file(tmp_path, shards), tmp_path / "runs"
    with started(file, storage) as launch:
        first = lose(launch, "raylet", storage)
        lose(launch, "gcs_server", storage, after=first + 2)
        printed, complained = launch.communicate(timeout=400)
    assert launch.returncode == 1 and "Traceback" not in printed + complained, printed + complained
    assert printed.count("Ray's raylet was lost (killed by signal 9): starting Ray anew") == 1
    [error] = [line for line in complained.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        "error: Ray's control store was lost (killed by signal 9), again after Ray was started anew"
    )
    with started(file, storage) as again:
        printed, complained = again.communicate(timeout=400)
    assert again.returncode == 0 and "4 done" in printed, printed + complained
