"""What a launch, a plan, a status and a report know of a storage before anything else, and how often they read it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import rich.console

from object_store import ObjectStore
from reports.storage import Storage
from reports.stored import record_ids
from simulated import Accuracy, CutError, drive, simulate, study_of
from study import launch
from study.config import Study
from study.display import Display
from study.known import current_plan, read_known
from study.launch import Room, run_missing
from study.plan import ExpectedImages
from study.wanted import LaunchOptions


def accuracy(spec: Any) -> float:
    return 0.5 + 0.1 * (getattr(spec.settings, "head_layer", 0) == 1)


def a_study() -> Study:
    """One pretraining, four candidates for the head layer, a fine-tuning from the best of them, and its student."""
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "head_layer": ["best"]}
    return study_of({"pretrain": {}, "finetune": {}, "distill": {}}, grid=grid, dev={"few_labels": 0})


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch whose trials take no time and need no Ray."""

    def run_schedule(run: Any, display: Display) -> None:
        known: Accuracy = accuracy
        drive(run.underway, known)

    monkeypatch.setattr(launch, "find_room", lambda study, plan, display, *, may_grow: (study, Room(2, grows=False)))
    monkeypatch.setattr(launch, "make_images", lambda study, storage: ExpectedImages.of(study))
    monkeypatch.setattr(launch, "run_schedule", run_schedule)


@pytest.mark.usefixtures("without_ray")
def test_a_launch_reads_each_record_once(store: ObjectStore, tmp_path: Path) -> None:
    study, storage = a_study(), Storage(store.bucket("read-once"))
    with pytest.raises(CutError):
        simulate(study, storage, accuracy, slots=1, cut_after=11)
    before = record_ids(storage)
    assert len(before) == 2, "a pretraining and a candidate"
    store.requests.clear()
    known = read_known(study, storage)
    quiet = Display(rich.console.Console(quiet=True))
    plan, skipped = run_missing(known, storage, tmp_path, None, quiet, LaunchOptions())
    assert plan.complete and not skipped and len(plan.trials) == 7 and not known.plan.complete
    read = Counter(path for method, path in store.requests if method == "GET" and "/records/" in path)
    assert {path.rpartition("/")[2].removesuffix(".json") for path in read} == set(plan.trials) == record_ids(storage)
    assert set(read.values()) == {1}, read


@pytest.mark.usefixtures("without_ray")
def test_the_plan_at_the_end_of_a_launch_is_that_of_a_new_one(tmp_path: Path) -> None:
    study, storage = a_study(), Storage(str(tmp_path / "runs"))
    quiet = Display(rich.console.Console(quiet=True))
    plan, _ = run_missing(read_known(study, storage), storage, tmp_path, None, quiet, LaunchOptions())
    again = current_plan(study, storage)
    assert list(plan.trials) == list(again.trials) and plan.finished == again.finished and again.complete


def test_a_record_that_cannot_be_read_is_told_and_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, storage = a_study(), Storage(str(tmp_path))
    simulate(study, storage, accuracy)
    [distilled] = [id for id in record_ids(storage) if id.startswith("distill")]
    (tmp_path / "records" / f"{distilled}.json").write_text("{}")
    known = read_known(study, storage)
    assert distilled in known.plan.finished and [Path(one.path).stem for one in known.problems] == [distilled]
    assert set(current_plan(study, storage).missing()) == {distilled}
    assert distilled in capsys.readouterr().err
