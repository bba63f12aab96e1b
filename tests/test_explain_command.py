"""`python -m study explain`, from records and from studies."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

import synthetic
from reports.records import Record
from reports.storage import Storage
from reports.stored import write_record
from studies import tiny, tiny_study
from study.cli import main
from study.plan import ExpectedImages, PlannedTrial, make_plan
from trainables.spec import PROTOCOL, STAGES, Stage


def planned(**changes: Any) -> dict[str, PlannedTrial]:
    study = tiny_study(**changes)
    return dict(make_plan(study, ExpectedImages.of(study)).trials)


def record_of(trial: PlannedTrial) -> Record:
    """A record of a planned trial, with invented results."""
    plain = synthetic.plain(trial.id)
    labelled = trial.rows if trial.spec.stage in ("linear", "finetune", "supervised") else 0
    data = plain["data"] | {"train_images": 200, "labelled_images": labelled}
    return Record.model_validate(plain | {"spec": trial.spec.plain(), "data": data})


@pytest.fixture
def finished(tmp_path: Path) -> tuple[str, dict[Stage, str]]:
    """A storage with a record of every stage, and the ids."""
    ids = {}
    for trial in planned().values():
        write_record(Storage(str(tmp_path)), record_of(trial))
        ids[trial.spec.stage] = trial.id
    return str(tmp_path), ids


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ")
    return refused


@pytest.mark.parametrize("stage", STAGES)
def test_finished_trial_and_planned_one_are_explained_alike(
    finished: tuple[str, dict[Stage, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: Stage
) -> None:
    storage, ids = finished
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    from_record = explained(capsys, ids[stage], "--storage", storage)
    assert from_record == explained(capsys, ids[stage], "--study", str(file), "--storage", str(tmp_path / "empty"))
    assert from_record == explained(capsys, stage[:3], "--storage", storage)
    lines = from_record.splitlines()
    assert lines[0].split() == ["trial", ids[stage]]
    rows = {"pretrain": 200, "distill": 200}.get(stage, 20)
    batch = {200: 100, 20: 20}[rows]
    assert lines[2].split()[1:] == f"{rows} an epoch, 2 epochs = {2 * rows // batch + 1} steps of {batch}".split()
    assert ("frozen" in from_record) == (stage in ("linear", "distill"))


def test_learning_rates_at_start_peak_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 21 steps of 100 of 200 images, the first 4 of them warm-up, up to 0.3 x sqrt(100)."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    sets = ("epochs=10", "warmup_epochs=2", "weight_decay=1e-4")
    overrides = itertools.chain.from_iterable(("--set", f"pretrain.optimization.{one}") for one in sets)
    text = explained(capsys, "pretrain", "--study", str(file), "--storage", str(tmp_path), *overrides)
    last = f"{3 * 0.5 * (1 + math.cos(math.pi * (20 - 4) / (21 - 4))):.4g}"
    assert "200 an epoch, 10 epochs = 21 steps of 100" in text
    assert f"learning rate 0 at the first step, 3 at its peak (step 4), {last} at the last" in text
    probe = [line.split() for line in text.splitlines() if line.startswith("probe")]
    assert probe == [
        ["probe", "kernels", "1", "320", "trained", "0.0001", "no", "0", "/", "3", "/", last, "-"],
        ["probe", "biases", "1", "10", "trained", "no", "no", "0", "/", "3", "/", last, "-"],
    ]
    [stem, *_] = [line.split() for line in text.splitlines() if line.startswith("encoder")]
    assert stem[1:7] == ["kernels", "13", "19,228", "trained", "0.0001", "yes"]


def test_without_warmup_the_first_step_is_at_the_peak(
    finished: tuple[str, dict[Stage, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuning makes 3 steps of 20, at a peak of 0.02 x sqrt(20)."""
    storage, ids = finished
    first, last = 0.02 * math.sqrt(20), 0.02 * math.sqrt(20) * 0.5 * (1 + math.cos(math.pi * 2 / 3))
    text = explained(capsys, ids["finetune"], "--storage", storage)
    assert f"rate {first:.4g} at the first step, {first:.4g} at its peak (step 0), {last:.4g} at the last" in text


@pytest.mark.parametrize("source", ["record", "study"])
def test_trial_that_is_not_known_or_not_the_only_one_is_refused(
    finished: tuple[str, dict[Stage, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    storage, ids = finished
    grid = {**tiny()["grid"], "seed": [0, 1]}
    both = planned(grid=grid).values()
    if source == "record":
        [other] = [trial for trial in both if trial.spec.stage == "linear" and trial.id not in ids.values()]
        write_record(Storage(storage), record_of(other))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny(grid=grid)))
    where = ["--storage", storage, *([] if source == "record" else ["--study", str(file)])]
    ambiguous = refusal(capsys, "linear-", *where)
    assert "2 trials begin with 'linear-'" in ambiguous
    assert all(trial.id in ambiguous for trial in both if trial.spec.stage == "linear")
    misspelled = ids["finetune"].replace("finetune", "finetuned")
    unknown = refusal(capsys, misspelled, *where)
    assert "no trial '10pct'" in refusal(capsys, "10pct", *where), "which is within ids, but begins none"
    assert f"no trial {misspelled!r}; the nearest is {ids['finetune']!r}" in unknown


def test_id_that_begins_another_one_is_that_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [trial] = [trial for trial in planned().values() if trial.spec.stage == "supervised"]
    for id in ("trial", "trial-2"):
        record = record_of(trial).model_copy(update={"id": id})
        write_record(Storage(str(tmp_path)), record)
    assert explained(capsys, "trial", "--storage", str(tmp_path)).split()[:2] == ["trial", "trial"]


def test_storage_without_the_records_that_are_needed_is_refused(
    finished: tuple[str, dict[Stage, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, ids = finished
    (tmp_path / "empty").mkdir()
    empty = str(tmp_path / "empty")
    assert "no trial 'pretrain'; there are none yet" in refusal(capsys, "pretrain", "--storage", empty)
    (Path(storage) / "records" / f"{ids['pretrain']}.json").unlink()
    assert ids["pretrain"] in refusal(capsys, ids["distill"], "--storage", storage), "its teacher descends from it"


def test_record_of_another_protocol_and_overrides_of_no_study_are_refused(
    finished: tuple[str, dict[Stage, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, ids = finished
    file = Path(storage) / "records" / f"{ids['supervised']}.json"
    plain = json.loads(file.read_text())
    plain["spec"]["protocol"] = 1
    file.write_text(json.dumps(plain))
    assert f"protocol 1, this code is protocol {PROTOCOL}" in refusal(capsys, ids["supervised"], "--storage", storage)
    assert "--study" in refusal(capsys, ids["linear"], "--storage", storage, "--set", "data.image_size=8")
