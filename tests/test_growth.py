"""Studies that leave something open, launched in simulated time: order, failures, interruptions, budgets."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.storage import Storage
from reports.stored import read_failures
from simulated import SECONDS, CutError, Simulated, finish, setting, simulate, study_of
from study.config import Study
from study.evidence import StoredEvidence
from study.grid import expand
from study.plan import ExpectedImages, make_plan
from study.trial import TrialSpec
from study.wanted import LaunchOptions

GRID = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1]}
ONE = {"architecture": ["r10w0.0625"], "label_fraction": [0.1]}
BEST = {**ONE, "head_layer": ["best"]}
RATE = "optimization.learning_rate"
RATES = {"learning_rate": {"log": [0.001, 1.0]}}
ONE_FOLD = {"few_labels": 0}
PRETRAIN: dict[str, dict[str, Any]] = {"pretrain": {}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def accuracy(spec: TrialSpec) -> float:
    """The best layer is 2, the best learning rate 0.05, more so for the wider network; folds differ a little."""
    if spec.stage != "finetune":
        return 0.5
    value = 0.8 - 0.1 * abs(setting(spec, "head_layer") - 2) - 0.05 * abs(math.log10(setting(spec, RATE) / 0.05))
    fold = spec.dev.fold if spec.dev else 0
    return value + 0.1 * (spec.architecture == "r10w0.125") + 0.001 * fold


def layer(wanted: int) -> Any:
    """Whether a trial fine-tunes from this layer and holds something out."""
    return lambda spec: spec.dev is not None and spec.stage == "finetune" and setting(spec, "head_layer") == wanted


def best_layer(launch: Simulated) -> Any:
    [chosen] = launch.chosen.values()
    return chosen["head_layer"]


def searching(search: dict[str, Any], grid: dict[str, Any] = ONE, **top: Any) -> Study:
    return study_of({**PRETRAIN, "finetune": {"search": search}}, grid=grid, **{"dev": ONE_FOLD, **top})


def test_study_with_everything_open_runs_to_its_end(storage: Storage) -> None:
    stages = {
        **PRETRAIN,
        "linear": {},
        "finetune": {"search": {**RATES, "trials": 6, "pruner": "asha"}},
        "distill": {"teacher": "best"},
    }
    study = study_of(stages, grid={**GRID, "head_layer": ["best"]}, dev={"folds": 2})
    launch = simulate(study, storage, accuracy, slots=3)
    assert launch.most_in_flight == 3
    assert len(launch.started) == len(set(launch.started))
    position = {id: number for number, id in enumerate(launch.started)}
    for id in launch.started:
        parent = launch.growth.expansion.specs[id].parent
        assert parent is None or position[parent] < position[id]
    assert Counter(spec.stage for spec in launch.finals.values()) == {
        "pretrain": 2,
        "linear": 2,
        "finetune": 2,
        "distill": 2,
    }
    parents = {launch.growth.expansion.specs[str(s.parent)] for s in launch.finals.values() if s.stage == "distill"}
    assert {parent.architecture for parent in parents} == {"r10w0.125"}
    again = simulate(study, storage, accuracy)
    assert again.started == [] and again.chosen == launch.chosen
    plan = make_plan(study, ExpectedImages.of(study), again.growth.evidence.done, again.growth.evidence)
    assert plan.complete and not plan.open_choices


def test_best_layer_is_that_of_the_highest_accuracy_and_its_training_holds_out_nothing(storage: Storage) -> None:
    launch = simulate(study_of({**PRETRAIN, "finetune": {}}, grid=BEST), storage, accuracy)
    assert best_layer(launch) == 2
    [final] = [spec for spec in launch.finals.values() if spec.stage == "finetune"]
    assert setting(final, "head_layer") == 2
    assert len(launch.started) == 1 + 4 * 5 + 1


def test_folds_count_by_their_images(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev={"folds": 2})
    specs = expand(study).specs
    for id, spec in specs.items():
        if spec.dev is not None:  # layer 1 is better on one image, layer 0 on nine
            share = {0: (1.0, 0.5), 1: (0.4, 1.0)}.get(setting(spec, "head_layer"), (0.0, 0.0))[spec.dev.fold]
            finish(storage, id, spec, share, held_out=(9, 1)[spec.dev.fold])
    [choice] = expand(study).choices.values()
    decision = StoredEvidence(storage, {id for id, spec in specs.items() if spec.dev}).decide(choice)
    assert decision is not None and decision.chosen.changes == {"head_layer": 0}
    assert [score.dev_top1 for score in decision.scores] == pytest.approx([0.95, 0.46, 0, 0])


def test_first_of_equal_options_is_chosen(storage: Storage) -> None:
    assert best_layer(simulate(study_of({**PRETRAIN, "finetune": {}}, grid=BEST), storage, lambda spec: 0.5)) == 0


def test_candidate_that_fails_is_left_out_of_the_choice_now_and_later(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev=ONE_FOLD)
    launch = simulate(study, storage, accuracy, fails=layer(2))
    assert best_layer(launch) in (1, 3) and len(launch.finals) == 2
    again = simulate(study, storage, accuracy)
    assert again.started == [] and again.chosen == launch.chosen and again.finals == launch.finals
    evidence = StoredEvidence(storage, again.growth.evidence.done)
    plan = make_plan(study, ExpectedImages.of(study), evidence.done, evidence)
    assert not plan.open_choices and [id for id in plan.missing() if "-h2-" in id] == list(plan.missing())
    retried = simulate(study, storage, accuracy, options=LaunchOptions(retry_failed=True))
    assert best_layer(retried) == 2 and [id.split("-")[3] for id in retried.started] == ["h2", "h2"]


def test_a_fold_that_fails_takes_its_candidate_out_of_the_choice(storage: Storage) -> None:
    def fails(spec: TrialSpec) -> bool:
        return layer(2)(spec) and spec.dev is not None and spec.dev.fold == 3

    launch = simulate(study_of({**PRETRAIN, "finetune": {}}, grid=BEST), storage, accuracy, fails=fails)
    assert best_layer(launch) in (1, 3)


def test_nothing_is_chosen_and_no_child_runs_where_all_candidates_fail(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {}}, grid=BEST, dev=ONE_FOLD)
    launch = simulate(study, storage, accuracy, fails=lambda spec: spec.dev is not None)
    assert launch.chosen == {} and {spec.stage for spec in launch.finals.values()} == {"pretrain"}
    assert len(launch.started) == 5
    plan = make_plan(study, ExpectedImages.of(study), launch.growth.evidence.done, launch.growth.evidence)
    assert [choice.stage for choice in plan.open_choices] == ["finetune"] and not plan.complete


def test_candidate_whose_process_was_killed_leaves_the_choice_open_until_the_next_launch(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev=ONE_FOLD)
    launch = simulate(study, storage, accuracy, dies=layer(2))
    assert launch.chosen == {} and len(launch.started) == 5
    again = simulate(study, storage, accuracy)
    assert best_layer(again) == 2 and [id.split("-")[3] for id in again.started] == ["h2", "h2"]


def test_best_teacher_is_one_of_those_whose_pretraining_did_not_fail(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}, grid=GRID, dev=ONE_FOLD)

    def fails(spec: TrialSpec) -> bool:
        return spec.stage == "pretrain" and spec.architecture == "r10w0.125"

    for _ in range(2):
        launch = simulate(study, storage, accuracy, fails=fails)
        [chosen] = launch.chosen.values()
        assert chosen["teacher.architecture"] == "r10w0.0625"
        students = [spec.architecture for spec in launch.finals.values() if spec.stage == "distill"]
        assert sorted(students) == ["r10w0.0625", "r10w0.125"]


def test_search_samples_as_many_as_its_budget_and_only_some_at_once(storage: Storage) -> None:
    launch = simulate(searching({**RATES, "trials": 9, "parallel": 3}), storage, accuracy, slots=8)
    sampled = [id for id in launch.started if "-dev" in id]
    assert len(sampled) == len(set(sampled)) == 9
    assert launch.most_in_flight == 3
    [chosen] = launch.chosen.values()
    specs = launch.growth.expansion.specs
    assert chosen["finetune." + RATE] == setting(max((specs[id] for id in sampled), key=accuracy), RATE)
    [final] = [spec for spec in launch.finals.values() if spec.stage == "finetune"]
    assert setting(final, RATE) == chosen["finetune." + RATE]


def test_search_goes_on_after_samples_that_fail(storage: Storage) -> None:
    def fails(spec: TrialSpec) -> bool:
        return spec.dev is not None and setting(spec, RATE) > 0.05

    launch = simulate(searching({**RATES, "trials": 12}), storage, accuracy, fails=fails)
    [choice] = launch.growth.expansion.choices.values()
    states = Counter(state for _, state in launch.growth.evidence.searches.samples(choice))
    assert set(states) == {"complete", "failed"} and sum(states.values()) == 12
    [chosen] = launch.chosen.values()
    assert chosen["finetune." + RATE] <= 0.05 and len(launch.finals) == 2
    again = simulate(searching({**RATES, "trials": 12}), storage, accuracy)
    assert again.started == [] and again.chosen == launch.chosen
    assert not again.growth.plan.missing()


def test_a_bigger_budget_adds_samples_and_the_first_ones_stay(storage: Storage) -> None:
    few = simulate(searching({**RATES, "trials": 4}), storage, accuracy)
    more = simulate(searching({**RATES, "trials": 7}), storage, accuracy)
    assert len([id for id in few.started if "-dev" in id]) == 4
    assert len([id for id in more.started if "-dev" in id]) == 3


def test_a_sample_whose_parent_failed_or_whose_process_was_killed_is_not_used_up(storage: Storage) -> None:
    study = searching({**RATES, "trials": 5})
    broken = simulate(study, storage, accuracy, fails=lambda spec: spec.stage == "pretrain")
    assert len(broken.started) == 1 and broken.chosen == {}
    killed = simulate(
        study, storage, accuracy, dies=lambda spec: spec.dev is not None, options=LaunchOptions(retry_failed=True)
    )
    assert killed.chosen == {}
    whole = simulate(study, storage, accuracy)
    [choice] = whole.growth.expansion.choices.values()
    assert [state for _, state in whole.growth.evidence.searches.samples(choice)] == ["complete"] * 5
    assert len(whole.finals) == 2


def test_budget_of_device_hours_ends_a_search(storage: Storage) -> None:
    launch = simulate(searching({**RATES, "device_hours": 0.1, "parallel": 1}), storage, accuracy)
    assert len([id for id in launch.started if "-dev" in id]) == round(0.1 * 3600 / SECONDS)
    assert len(launch.chosen) == 1 and len(launch.finals) == 2


def test_budget_of_device_hours_pays_for_pruned_samples_too(storage: Storage) -> None:
    study = searching({**RATES, "device_hours": 0.5, "parallel": 1, "pruner": "asha"})
    launch = simulate(study, storage, accuracy)
    whole = {id for id in launch.started if "-dev" in id} - launch.pruned.keys()
    assert len(launch.pruned) > 5
    spent = len(whole) * SECONDS + sum(launch.pruned.values())
    assert 1800 <= spent < 1800 + SECONDS
    again = simulate(study, storage, accuracy)
    assert not again.started, "another launch knows what was spent"


def test_budget_of_device_hours_ends_a_search_that_learns_nothing(tmp_path: Path) -> None:
    failing = searching({**RATES, "device_hours": 1.0})
    launch = simulate(failing, Storage(str(tmp_path / "a")), accuracy, fails=lambda spec: spec.dev is not None)
    assert launch.chosen == {} and len(launch.started) < 40
    few = searching({"learning_rate": {"choices": [0.1, 0.05]}, "device_hours": 1.0})
    launch = simulate(few, Storage(str(tmp_path / "b")), accuracy)
    assert [chosen["finetune." + RATE] for chosen in launch.chosen.values()] == [0.05]
    assert len([id for id in launch.started if "-dev" in id]) == 2


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize("dev", [ONE_FOLD, {"folds": 3}])
def test_pruned_samples_leave_no_record_and_are_never_chosen(
    storage: Storage, pruner: str, dev: dict[str, int]
) -> None:
    study = searching({**RATES, "trials": 12, "pruner": pruner}, grid=GRID, dev=dev)
    launch = simulate(study, storage, accuracy, slots=4)
    assert launch.pruned and len(launch.chosen) == 2
    assert not {id for id in launch.pruned if storage.exists("records", f"{id}.json")}
    for choice in launch.growth.expansion.choices.values():
        states = [state for _, state in launch.growth.evidence.searches.samples(choice)]
        assert len(states) == 12 and set(states) == {"complete", "pruned"}
        pruned = {option.trials for option, state in zip(choice.options, states, strict=True) if state == "pruned"}
        assert all(set(trials) & set(launch.pruned) for trials in pruned)
    again = simulate(study, storage, accuracy)
    assert again.started == [] and again.chosen == launch.chosen and not again.growth.plan.missing()


def test_a_small_network_that_learns_less_is_not_stopped_for_a_big_one(storage: Storage) -> None:
    def by_size(spec: TrialSpec) -> float:
        return accuracy(spec) if spec.architecture == "r10w0.125" else 0.1 * accuracy(spec)

    launch = simulate(searching({**RATES, "trials": 6, "pruner": "asha"}, grid=GRID), storage, by_size, slots=8)
    finished = Counter(spec.architecture for id, spec in launch.growth.expansion.specs.items() if _is_done(launch, id))
    assert finished["r10w0.0625"] >= 1 and finished["r10w0.125"] >= 1


def _is_done(launch: Simulated, id: str) -> bool:
    return "-dev" in id and launch.schedule.states.get(id) == "done"


def test_folds_of_a_sample_that_may_be_pruned_come_one_after_the_other(storage: Storage) -> None:
    study = searching({**RATES, "trials": 2, "pruner": "median"}, dev={"folds": 3})
    launch = simulate(study, storage, accuracy, slots=9)
    assert launch.most_in_flight == 2
    for option in next(iter(launch.growth.expansion.choices.values())).options:
        assert [id for id in launch.started if id in option.trials] == list(option.trials)


def interrupted_study(**search: Any) -> Study:
    stages = {**PRETRAIN, "finetune": {"search": {**RATES, "trials": 4, **search}}, "distill": {"teacher": "best"}}
    return study_of(stages, grid={**GRID, "head_layer": ["best"]}, dev={"folds": 2})


IN_TURN = interrupted_study(parallel=1, pruner="asha"), 1
AT_ONCE = interrupted_study(sampler="random"), 3
"""Studies and slots with which what is sampled does not depend on who happens to be faster."""


def samples(launch: Simulated) -> dict[str, Any]:
    """Of every search, what was sampled and what became of it."""
    choices = launch.growth.expansion.choices.values()
    return {choice.id: launch.growth.evidence.searches.samples(choice) for choice in choices if choice.search}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Simulated]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return [
        simulate(study, Storage(str(folder / str(slots))), accuracy, slots=slots) for study, slots in (IN_TURN, AT_ONCE)
    ]


@settings(max_examples=20, deadline=None)
@given(which=st.sampled_from([0, 1]), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_interrupted_anywhere_a_study_ends_with_the_same_choices(
    undisturbed: list[Simulated], tmp_path_factory: pytest.TempPathFactory, which: int, cuts: list[int]
) -> None:
    (study, slots), storage = (IN_TURN, AT_ONCE)[which], Storage(str(tmp_path_factory.mktemp("interrupted")))
    for cut in cuts:
        try:
            simulate(study, storage, accuracy, slots=slots, cut_after=cut)
        except CutError:
            continue
    launch = simulate(study, storage, accuracy, slots=slots)
    assert samples(launch) == samples(undisturbed[which]) and len(samples(launch)) == 2
    assert launch.chosen == undisturbed[which].chosen and len(launch.chosen) == 3
    assert set(launch.finals) == set(undisturbed[which].finals)


def test_a_trial_that_another_study_has_finished_is_not_run_again(storage: Storage) -> None:
    explicit = study_of({**PRETRAIN, "finetune": {}}, grid={**ONE, "head_layer": [2]})
    for id, spec in expand(explicit).specs.items():
        finish(storage, id, spec, accuracy(spec))
    launch = simulate(study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev=ONE_FOLD), storage, accuracy)
    assert best_layer(launch) == 2
    assert all("-dev" in id for id in launch.started)


def test_only_what_is_wanted_runs_and_all_that_it_needs(storage: Storage) -> None:
    stages = {
        **PRETRAIN,
        "linear": {},
        "finetune": {"search": {**RATES, "trials": 6}},
        "supervised": {"select": {"over": {"learning_rate": [0.1, 0.2]}}},
        "distill": {"select": {"over": {"temperature": [0.1, 1.0]}}},
    }
    study = study_of(stages, grid=GRID, dev=ONE_FOLD)
    options = LaunchOptions(only=(("stage", "distill"), ("architecture", "r10w0.125")))
    launch = simulate(study, storage, accuracy, options=options)
    specs = [launch.growth.expansion.specs[id] for id in launch.started]
    assert {spec.architecture for spec in specs} == {"r10w0.125"}
    assert Counter((spec.stage, spec.dev is not None) for spec in specs) == {
        ("pretrain", False): 1,
        ("finetune", True): 6,
        ("distill", True): 2,
        ("finetune", False): 1,
        ("distill", False): 1,
    }
    rest = simulate(study, storage, accuracy)
    assert {spec.stage for spec in rest.finals.values()} == set(stages)
    assert not set(rest.started) & set(launch.started)


def test_only_what_needs_the_best_teacher_runs_its_candidates(storage: Storage) -> None:
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}, grid=GRID, dev=ONE_FOLD)
    options = LaunchOptions(only=(("stage", "distill"), ("architecture", "r10w0.0625")))
    launch = simulate(study, storage, accuracy, options=options)
    specs = [launch.growth.expansion.specs[id] for id in launch.started]
    assert Counter((spec.stage, spec.architecture, spec.dev is not None) for spec in specs) == {
        ("pretrain", "r10w0.0625", False): 1,
        ("pretrain", "r10w0.125", False): 1,
        ("finetune", "r10w0.0625", True): 1,
        ("finetune", "r10w0.125", True): 1,
        ("finetune", "r10w0.125", False): 1,
        ("distill", "r10w0.0625", False): 1,
    }


def test_failures_of_a_simulation_are_those_of_a_launch(storage: Storage) -> None:
    simulate(study_of({**PRETRAIN}, grid=ONE), storage, accuracy, fails=lambda spec: True)
    [failure], _ = read_failures(storage)
    assert failure.error_type == "RuntimeError"
