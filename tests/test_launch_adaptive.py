"""A study that leaves settings open, through Ray from the command line a user types, undisturbed and killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from reports.records import Record
from reports.storage import Storage
from reports.stored import read_records
from studies import tiny
from study.search import JOURNAL
from test_launch import kill_driver, run, sharded

pytestmark = pytest.mark.timeout(240)

RATE = "finetune.optimization.learning_rate"
SEARCH = {"learning_rate": {"log": [0.0001, 0.3]}, "trials": 5, "parallel": 1, "pruner": "asha"}


def study_file(folder: Path, shards: str) -> Path:
    """Two networks whose fine-tuning is searched, head layer included; both are taught by the better of them."""
    stages: dict[str, Any] = {name: tiny()["stages"][name] for name in ("pretrain", "finetune", "distill")}
    stages["finetune"]["search"] = SEARCH
    stages["finetune"]["optimization"]["epochs"] = 20
    stages["distill"]["teacher"] = "best"
    grid = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.5], "head_layer": ["best"]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(stages=stages, grid=grid, data=sharded(shards), dev={"few_labels": 0})))
    return path


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, shards: str) -> tuple[Path, Storage]:
    """The study's file, and the storage in which it ran undisturbed."""
    folder = tmp_path_factory.mktemp("adaptive")
    file, storage = study_file(folder, shards), Storage(str(folder / "runs"))
    run("launch", file, "--storage", storage.root)
    return file, storage


def records_of(storage: Storage, *, dev: bool) -> dict[str, Record]:
    records, problems = read_records(storage)
    assert not problems
    return {record.id: record for record in records if (record.spec.dev is not None) == dev}


def searches_of(storage: Storage) -> dict[str, list[tuple[Any, ...]]]:
    """What the journal holds of every search: settings, state, intermediate and final accuracies."""
    backend = optuna.storages.journal.JournalFileBackend(storage.path(*JOURNAL))
    journal = optuna.storages.JournalStorage(backend)
    return {
        name: [
            (trial.params, trial.state.name, trial.intermediate_values, trial.value)
            for trial in optuna.load_study(study_name=name, storage=journal).trials
        ]
        for name in optuna.get_all_study_names(journal)
    }


def test_trials_that_rest_on_a_choice_tell_what_was_chosen_among_what(launched: tuple[Path, Storage]) -> None:
    _, storage = launched
    held_out, final = records_of(storage, dev=True), records_of(storage, dev=False)
    assert (
        sorted(record.spec.stage for record in final.values()) == ["distill"] * 2 + ["finetune"] * 2 + ["pretrain"] * 2
    )
    for record in final.values():
        assert {"top1", "top5"} <= record.metrics.keys() and "dev_top1" not in record.metrics
        assert bool(record.selections) == (record.spec.stage != "pretrain")
        for selection in record.selections:
            scores = {candidate.dev_top1: candidate for candidate in selection.among if candidate.dev_top1 is not None}
            assert selection.chosen == scores[max(scores)].changes
            for candidate in selection.among:
                [trial] = candidate.trials
                assert (trial in held_out) == (candidate.dev_top1 is not None)
                assert trial not in held_out or held_out[trial].metrics["dev_top1"] == candidate.dev_top1
    for record in held_out.values():
        assert not {"top1", "top5", "loss"} & record.metrics.keys() and record.metrics["evaluated"] == 70 // 5


def test_what_was_chosen_is_what_was_trained(launched: tuple[Path, Storage]) -> None:
    final = records_of(launched[1], dev=False)
    for record in final.values():
        if record.spec.stage == "finetune":
            [selection] = record.selections
            assert len(selection.among) == 5 and set(selection.chosen) == {"head_layer", RATE}
            settings: Any = record.spec.settings
            assert settings["head_layer"] == selection.chosen["head_layer"]
            assert settings["optimization"]["learning_rate"] == selection.chosen[RATE]
        if record.spec.stage == "distill":
            nested, selection = record.selections
            teacher = final[str(record.spec.parent)]
            assert nested == teacher.selections[0]
            assert [candidate.changes["teacher.architecture"] for candidate in selection.among] == [
                "r10w0.0625",
                "r10w0.125",
            ]
            assert teacher.spec.architecture == selection.chosen["teacher.architecture"]


def test_journal_of_the_searches_lies_in_the_storage(launched: tuple[Path, Storage]) -> None:
    searches = searches_of(launched[1])
    assert sorted(name.rpartition("-")[0] for name in searches) == [
        "choose-finetune-r10w0.0625-50pct-s0",
        "choose-finetune-r10w0.125-50pct-s0",
    ]
    for trials in searches.values():
        states = [state for _, state, _, _ in trials]
        assert len(states) == 5 and set(states) <= {"COMPLETE", "PRUNED"} and states[0] == "COMPLETE"
        assert all(set(seen) <= {1, 2, 3} and seen for _, _, seen, _ in trials)


def test_launching_again_runs_nothing(launched: tuple[Path, Storage]) -> None:
    file, storage = launched
    files = [path for folder in ("records", "search") for path in (Path(storage.root) / folder).iterdir()]
    before = {path: path.stat().st_mtime_ns for path in files}
    printed = run("launch", file, "--storage", storage.root).stdout
    assert printed.startswith("\nAnswer:\n") and {path: path.stat().st_mtime_ns for path in files} == before
    assert run("launch", file, "--storage", storage.root, "--dry-run").stdout.startswith("nothing to run: all ")
    assert run("status", file, "--storage", storage.root).returncode == 0


def test_killed_launch_ends_with_the_same_choices(launched: tuple[Path, Storage], tmp_path: Path) -> None:
    file, undisturbed = launched
    killed = Storage(str(tmp_path / "runs"))
    command = [sys.executable, "-m", "study", "launch", str(file), "--storage", killed.root]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/records/finetune-*-dev1of5-*.json")):
        assert time.monotonic() < deadline and process.poll() is None, "no trial on held-out images has ended"
        time.sleep(0.02)
    kill_driver(process)
    assert len(records_of(killed, dev=False)) < 6
    kept = set(records_of(killed, dev=True))
    run("launch", file, "--storage", killed.root)
    for dev in (True, False):
        found, expected = records_of(killed, dev=dev), records_of(undisturbed, dev=dev)
        assert {id: record.metrics for id, record in found.items()} == {id: r.metrics for id, r in expected.items()}
        assert {id: record.selections for id, record in found.items()} == {
            id: r.selections for id, r in expected.items()
        }
    assert kept <= set(records_of(undisturbed, dev=True))
    assert searches_of(killed) == searches_of(undisturbed)


def test_a_part_with_more_seeds_is_launched_with_what_it_needs(launched: tuple[Path, Storage]) -> None:
    file, storage = launched
    before = records_of(storage, dev=True) | records_of(storage, dev=False)
    only = "stage=finetune architecture=r10w0.0625"
    run("launch", file, "--storage", storage.root, "--seeds", "2", "--only", only)
    after = records_of(storage, dev=True) | records_of(storage, dev=False)
    new = [record.spec for id, record in after.items() if id not in before]
    assert {id: after[id] for id in before} == before
    assert {(spec.seed, spec.architecture) for spec in new} == {(1, "r10w0.0625")}
    assert sorted(spec.stage for spec in new if spec.dev is None) == ["finetune", "pretrain"]
    assert {spec.stage for spec in new if spec.dev is not None} == {"finetune"}


def test_exploration_is_calibrated_launched_and_over(shards: str, tmp_path: Path) -> None:
    """Cells are known only when they are picked; until the first one there are no trials at all."""
    stages: dict[str, Any] = {name: tiny()["stages"][name] for name in ("pretrain", "finetune")}
    grid = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.5]}
    more: dict[str, Any] = {"explore": {"budget_device_hours": 1}, "dev": {"few_labels": 0}}
    file, storage = tmp_path / "study.yaml", Storage(str(tmp_path / "runs"))
    file.write_text(yaml.safe_dump(tiny(stages=stages, grid=grid, data=sharded(shards), **more)))
    run("plan", file, "--storage", storage.root, "--calibrate")
    printed = run("launch", file, "--storage", storage.root).stdout
    assert "the exploration picks no more cells: all 2 cells were started\n" in printed
    assert len(records_of(storage, dev=False)) == 4 and len(records_of(storage, dev=True)) == 2
    assert run("status", file, "--storage", storage.root).returncode == 0
