"""Studies whose grid is explored, launched in simulated time: what is picked, paid for, resumed and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports.storage import Storage
from reports.stored import read_records, record_ids
from simulated import SECONDS, CutError, Simulated, simulate
from studies import tiny, tiny_study
from study.capacity import NodeTypes, worker_slots
from study.config import Execution, Study
from study.evidence import StoredEvidence
from study.known import read_known
from study.launch import check_search_budgets, whole_plan
from study.plan import ExpectedImages, make_plan
from study.trial import TrialSpec

HOUR = 3600 / SECONDS  # trials
SIZES = {"r10w0.0625": 0.1, "r10w0.125": 0.3, "r10w0.25": 0.35, "r10w0.5": 0.36}
GRID = {"architecture": list(SIZES), "label_fraction": [0.1, 0.5], "head_layer": [0, 1, 2]}
WHOLE = 4 + 24 + 24  # pretrainings, fine-tuned trials, and one that measures each on the held-out part


def explored(budget_trials: float = 20, **changes: Any) -> Study:
    """24 cells of fine-tuning, and a budget of so many trials."""
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune")}
    explore = {"budget_device_hours": budget_trials / HOUR, "patience": 20, **changes}
    return tiny_study(stages=stages, grid=GRID, explore=explore, dev={"folds": 2, "few_labels": 0})


def accuracy(spec: TrialSpec) -> float:
    layer = getattr(spec.settings, "head_layer", 0)
    return SIZES[spec.architecture] + 0.2 * (layer == 1) + 0.3 * (getattr(spec.settings, "label_fraction", 0) == 0.5)


def run(study: Study, storage: Storage, **changes: Any) -> Simulated:
    return simulate(study, storage, accuracy, seconds=SECONDS, **changes)


def plan_of(study: Study, storage: Storage) -> Any:
    done = record_ids(storage)
    return make_plan(study, ExpectedImages.of(study), done, StoredEvidence(storage, done))


def test_no_more_is_spent_than_the_budget_and_the_launch_then_is_complete(tmp_path: Path) -> None:
    storage, study = Storage(str(tmp_path)), explored(20)
    launch = run(study, storage)
    assert 10 < len(launch.started) <= 20
    plan = plan_of(study, storage)
    assert plan.complete and set(plan.trials) == set(launch.started)
    assert run(study, storage).started == []


def test_a_pretraining_of_several_cells_is_paid_once(tmp_path: Path) -> None:
    launch = run(explored(WHOLE), Storage(str(tmp_path)))
    assert len(launch.started) == len(set(launch.started)) == WHOLE  # the budget pays for the whole grid, exactly


def test_trials_that_take_longer_than_predicted_count_with_what_they_took(tmp_path: Path) -> None:
    launch = simulate(explored(20), Storage(str(tmp_path)), accuracy, seconds=SECONDS / 3)
    cells_in_flight = 2 * 3  # of at most three trials each, whose price was too low when they were picked
    assert 15 < len(launch.started) <= 20 + cells_in_flight


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first = run(explored(12), storage)
    second = run(explored(24), storage)
    assert not set(first.started) & set(second.started) and 0 < len(second.started) <= 24 - len(first.started)


@pytest.mark.parametrize("cut_after", [1, 9, 20, 33, 50])
def test_an_interrupted_exploration_goes_on(tmp_path: Path, cut_after: int) -> None:
    storage, study = Storage(str(tmp_path)), explored(20)
    with pytest.raises(CutError):
        run(study, storage, cut_after=cut_after)
    before = record_ids(storage)
    again = run(study, storage)
    assert not before & set(again.started)
    assert plan_of(study, storage).complete and 10 < len(record_ids(storage)) <= 20


def test_cells_are_picked_by_what_was_measured_on_held_out_images(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    run(explored(30), storage)
    records, _ = read_records(storage)
    measured = [record for record in records if record.spec.dev is not None]
    assert measured and all("top1" not in record.metrics for record in measured)
    best = max(measured, key=lambda record: record.metrics["dev_top1"])
    assert best.spec.settings["head_layer"] == 1 and best.spec.settings["label_fraction"] == 0.5


def test_a_cell_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    launch = run(explored(WHOLE), Storage(str(tmp_path)), fails=lambda spec: spec.architecture == "r10w0.125")
    failed = {id for id, state in launch.schedule.states.items() if state != "done"}
    assert {launch.schedule.trials[id].spec.architecture for id in failed} == {"r10w0.125"}
    assert {launch.schedule.trials[id].spec.architecture for id in launch.started} == set(SIZES)


def test_time_that_nobody_knows_cannot_be_budgeted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="52 of 52 trials is unknown here; measure a few steps first"):
        simulate(explored(20), Storage(str(tmp_path)), accuracy)


def test_a_budget_below_the_cheapest_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than the cheapest cell takes"):
        run(explored(2), Storage(str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {**GRID, "head_layer": ["best"]}}, "stages.finetune leaves settings open"),
        ({"stages": {"pretrain": tiny()["stages"]["pretrain"]}}, "a stage that reads labels"),
        ({"explore": {"budget_device_hours": 0}}, "budget_device_hours"),
        ({"explore": {"budget_device_hours": 1, "objectives": ["dev_top1", "flops"]}}, "did you mean `train_flops`"),
    ],
)
def test_what_cannot_be_explored_is_refused(changes: dict[str, Any], message: str) -> None:
    plain: dict[str, Any] = {"grid": GRID, "explore": {"budget_device_hours": 1}, **changes}
    with pytest.raises(ValueError, match=message):
        tiny_study(**plain)


def test_a_search_whose_hours_pay_for_no_sample_is_refused() -> None:
    search = {"learning_rate": {"log": [0.01, 1.0]}, "device_hours": 0.04}
    stages = {"supervised": {**tiny()["stages"]["supervised"], "search": search}}
    study = tiny_study(stages=stages)
    images = ExpectedImages.of(study)
    plan = make_plan(study, images, evidence=None)
    check_search_budgets(plan, images, lambda trial: 20.0)  # five folds of 20 s are 0.028 hours
    with pytest.raises(ValueError, match=r"pay for no sample, one takes about 0.056 \(5 trainings\)"):
        check_search_budgets(plan, images, lambda trial: 40.0)


def test_workers_of_any_cell_count_before_one_is_picked(tmp_path: Path) -> None:
    wide = Execution(workers={"default": 1, "r10w0.125": 4}, per_worker={"CPU": 1.0})
    study = explored(20).model_copy(update={"execution": wide})
    known = read_known(study, Storage(str(tmp_path)))
    assert known.plan.exploring and not known.plan.expected()
    whole, nobody = whole_plan(known), NodeTypes((), 0)
    assert worker_slots(whole, wide, [{"CPU": 4.0}], nobody, may_grow=False) == 4
    with pytest.raises(ValueError, match=r"r10w0\.125.* asks for 4 workers"):
        worker_slots(whole, wide, [{"CPU": 3.0}], nobody, may_grow=False)
