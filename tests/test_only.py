"""Which part of a study is launched: --only, --seeds, --dry-run, --retry-failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reports.storage import Storage
from reports.stored import record_ids
from simulated import finish, simulate, study_of
from studies import tiny, tiny_study
from study.cli import main
from study.failures import note_death, note_error
from study.grid import expand
from study.load import load_study, with_seeds
from study.only import matches, parse_only, with_what_they_need
from study.plan import ExpectedImages, Plan, make_plan

GRID = {
    "architecture": ["r10w0.0625", "r10w0.125", "r18sk"],
    "label_fraction": [0.1, 1],
    "head_layer": [0, 1],
    "temperature": [0.1, 1.0],
    "seed": [0, 1],
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(tiny_study(grid=GRID), ExpectedImages(200, 10))


def matching(plan: Plan, text: str) -> set[str]:
    only = parse_only(text)
    return {id for id, trial in plan.trials.items() if matches(only, trial)}


def test_every_word_has_to_match(plan: Plan) -> None:
    found = matching(plan, "stage=finetune architecture=r10*  seed=1 head_layer=0")
    specs = [plan.trials[id].spec for id in found]
    assert len(specs) == 4
    assert {(spec.stage, spec.seed) for spec in specs} == {("finetune", 1)}
    assert {spec.architecture for spec in specs} == {"r10w0.0625", "r10w0.125"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("label_fraction=1 stage=finetune", 12),
        ("label_fraction=1.0 stage=finetune", 12),
        ("label_fraction=0.10 stage=finetune", 12),
        ("label_fraction=0.* stage=finetune", 12),
        ("stage=distill temperature=1", 24),
        ("architecture=*sk stage=pretrain", 2),
        ("architecture=*sk stage=pretrain seed=[01]", 2),
        ("id=pretrain-r18sk-*", 2),
        ("stage=pretrain head_layer=1", 0),  # a pretraining has no such field
        ("architecture=R18SK", 0),
    ],
)
def test_numbers_match_by_value_and_names_by_pattern(plan: Plan, text: str, count: int) -> None:
    assert len(matching(plan, text)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--only is empty"),
        ("   ", "--only is empty"),
        ("finetune", "expected field=pattern words such as stage=finetune, found 'finetune'"),
        ("stage=", "found 'stage='"),
        ("stage=finetune archtecture=r18", "trials have no field 'archtecture'; did you mean `architecture`?"),
        ("colour=red", "trials have no field 'colour'; known: id, stage"),
    ],
)
def test_words_of_another_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_only(text)
    assert message in str(error.value)


def test_what_matches_comes_with_all_its_ancestors_and_nothing_else(plan: Plan) -> None:
    wanted = with_what_they_need(parse_only("stage=distill architecture=r18sk seed=0 temperature=1"), plan.trials)
    expected = set()
    for id in matching(plan, "stage=distill architecture=r18sk seed=0 temperature=1"):
        at: str | None = id
        while at is not None:
            expected.add(at)
            at = plan.trials[at].spec.parent
    assert wanted == expected and len(wanted) == 4 + 4 + 1


@pytest.mark.parametrize(
    ("own", "count", "seeds"),
    [
        (None, 3, [0, 1, 2]),
        ([0, 1, 2], 5, [0, 1, 2, 3, 4]),
        ([7], 3, [7, 0, 1]),
        ([1, 0], 2, [1, 0]),
        ([0, 1, 2], 1, [0, 1, 2]),
        ([3, 1], 5, [3, 1, 0, 2, 4]),
    ],
)
def test_seeds_are_added_to_those_of_the_study(own: list[int] | None, count: int, seeds: list[int]) -> None:
    grid = {**tiny()["grid"], **({} if own is None else {"seed": own})}
    assert with_seeds(tiny_study(grid=grid), count).grid[0].axes["seed"] == seeds


def test_more_seeds_keep_every_trial_and_reach_every_grid() -> None:
    axes = tiny()["grid"]
    study = tiny_study(grid=[axes, {**axes, "label_fraction": [1.0], "seed": [5]}])
    before, after = set(expand(study).specs), expand(with_seeds(study, 3)).specs
    assert before <= after.keys()
    assert [grid.axes["seed"] for grid in with_seeds(study, 3).grid] == [[0, 1, 2], [5, 0, 1]]
    assert study.grid[0].axes == axes


def study_file(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(**changes)))
    return path


def dry_run(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> list[str]:
    """What a dry run prints; it leaves the folder as it was."""
    before = sorted(file.parent.rglob("*"))
    code = main(["launch", str(file), "--storage", str(file.parent / "runs"), "--dry-run", *arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert sorted(file.parent.rglob("*")) == before
    return printed.out.splitlines()


def finish_all(file: Path, *stages: str) -> None:
    storage = Storage(str(file.parent / "runs"))
    for id, spec in expand(load_study(file)).specs.items():
        if spec.stage in stages:
            finish(storage, id, spec, 0.5)


def stages_of(lines: list[str]) -> list[str]:
    return [line.split("-")[0] for line in lines]


def test_dry_run_prints_what_would_run_in_order_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_file(tmp_path)
    lines = dry_run(capsys, file)
    stages = stages_of(lines)
    assert sorted(stages) == ["distill", "finetune", "linear", "pretrain", "supervised"]
    assert stages.index("pretrain") < stages.index("finetune") < stages.index("distill")
    assert all(line.endswith("FLOPs") for line in lines)
    finish_all(file, "pretrain", "supervised")
    assert sorted(stages_of(dry_run(capsys, file))) == ["distill", "finetune", "linear"]


def test_dry_run_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = study_file(tmp_path)
    assert stages_of(dry_run(capsys, file, "--only", "stage=linear")) == ["pretrain", "linear"]
    finish_all(file, "pretrain")
    assert stages_of(dry_run(capsys, file, "--only", "stage=linear")) == ["linear"]


def test_dry_run_with_more_seeds_runs_the_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = study_file(tmp_path)
    finish_all(file, *tiny()["stages"])
    nothing = dry_run(capsys, file, "--seeds", "1")
    assert nothing[0] == "nothing to run: all 5 trials are finished" and "python -m study report" in nothing[1]
    nothing = dry_run(capsys, file, "--seeds", "2", "--only", "seed=0 stage=linear")
    assert nothing[0] == "nothing to run: all 2 trials of this part are finished"
    lines = dry_run(capsys, file, "--seeds", "3")
    assert len(lines) == 10
    assert {word for line in lines for word in line.split()[0].split("-") if word in ("s0", "s1", "s2")} == {"s1", "s2"}


def test_dry_run_leaves_failed_trials_alone_unless_told_to_retry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = study_file(tmp_path), Storage(str(tmp_path / "runs"))
    ids = {spec.stage: id for id, spec in expand(load_study(file)).specs.items()}
    finish_all(file, "pretrain")
    note_error(storage, ids["finetune"], RuntimeError("diverged"))
    lines = dry_run(capsys, file)
    assert sorted(stages_of(lines[:-1])) == ["linear", "supervised"]  # the student needs the failed teacher
    assert lines[-1] == f"left alone: {ids['finetune']} failed before (RuntimeError); --retry-failed tries it again"
    assert len(dry_run(capsys, file, "--retry-failed")) == 4
    assert stages_of(dry_run(capsys, file, "--only", "stage=linear")) == ["linear"]


def test_dry_run_goes_on_with_what_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, storage = study_file(tmp_path), Storage(str(tmp_path / "runs"))
    ids = {spec.stage: id for id, spec in expand(load_study(file)).specs.items()}
    note_death(storage, ids["pretrain"], "2026-01-01T00:00:00+00:00", "killed by signal 9")
    assert len(dry_run(capsys, file)) == 5


def test_dry_run_says_what_is_still_to_be_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune", "distill")}
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "head_layer": ["best"]}
    file = study_file(tmp_path, stages=stages, grid=grid, dev={"few_labels": 0})
    lines = dry_run(capsys, file)
    assert stages_of(lines[:-1]) == ["pretrain", *["finetune"] * 4]
    assert lines[-1].startswith("to be decided: choose-finetune-r10w0.0625-10pct-s0-")
    stages["finetune"]["search"] = {"learning_rate": {"log": [0.01, 1]}}
    file = study_file(tmp_path, stages=stages, grid=grid)
    assert stages_of(dry_run(capsys, file)) == ["pretrain", "to be decided: choose"]


def test_plan_counts_what_is_run_to_choose_by_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune")}
    stages["finetune"]["select"] = {"over": {"learning_rate": [0.1, 0.2, 0.3]}}
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "seed": [0, 1], "head_layer": [0, 1]}

    def grid_line(file: Path) -> str:
        assert main(["plan", str(file), "--storage", str(tmp_path / "runs")]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("grid "))

    chosen = grid_line(study_file(tmp_path, stages=stages, grid=grid, dev={"few_labels": 0}))
    assert chosen.endswith(
        "4 cells: 8 trainings if each cell ran its own, 6 with shared ones merged, and 12 to choose by"
    )
    del stages["finetune"]["select"]
    explore = {"budget_device_hours": 1}
    explored = grid_line(study_file(tmp_path, stages=stages, grid=grid, dev={"folds": 3}, explore=explore))
    assert explored.endswith("4 cells: 20 trainings if each cell ran its own, 18 with shared ones merged")


def test_plan_counts_searches_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune", "supervised")}
    stages["finetune"]["search"] = {"learning_rate": {"log": [0.01, 1]}, "trials": 8}
    stages["supervised"]["search"] = {"learning_rate": {"log": [0.01, 1]}, "sampler": "random", "device_hours": 1}
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "seed": [0, 1]}
    file = study_file(tmp_path, stages=stages, grid=grid, dev={"few_labels": 0})
    assert main(["plan", str(file), "--storage", str(tmp_path / "runs")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("open ")]
    assert lines == [
        "open     2 searches (tpe) of 8 samples, by accuracy on held-out images",
        "open     2 searches (random) of 1 device-hours, by accuracy on held-out images",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "stage"], "expected field=pattern"),
        (["--only", ""], "--only is empty"),
        (["--only", "seed=0 stage=fine"], "no trial has stage=fine; there are finetune"),
        (["--only", "architecture=r50*"], "no trial has architecture=r50*; there are r10w0.0625"),
        (["--only", "stage=linear temperature=0.1"], "no trial matches all of them"),
        (["--seeds", "0"], "--seeds 0: expected 1 to 100,000"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    file = study_file(tmp_path)
    assert main(["launch", str(file), "--storage", str(tmp_path / "runs"), "--dry-run", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_status_is_incomplete_while_something_is_to_be_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune")}
    stages["finetune"]["search"] = {"learning_rate": {"log": [0.01, 1]}, "trials": 2}
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1]}
    file = study_file(tmp_path, stages=stages, grid=grid)
    finish_all(file, "pretrain")
    assert main(["status", str(file), "--storage", str(tmp_path / "runs")]) == 1
    assert "to be decided: choose-finetune" in capsys.readouterr().out
    simulate(load_study(file), Storage(str(tmp_path / "runs")), lambda spec: 0.5)
    assert main(["status", str(file), "--storage", str(tmp_path / "runs")]) == 0
    assert "to be decided" not in capsys.readouterr().out


def test_more_seeds_run_only_what_is_new(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "head_layer": ["best"]}
    study = study_of({"pretrain": {}, "finetune": {}}, grid=grid, dev={"few_labels": 0})
    first = simulate(study, storage, lambda spec: 0.5)
    before = record_ids(storage)
    second = simulate(with_seeds(study, 3), storage, lambda spec: 0.5)
    assert set(first.chosen) < set(second.chosen) and len(second.chosen) == 3
    assert not set(second.started) & before and len(second.started) == 2 * len(first.started)
