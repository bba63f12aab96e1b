"""What is chosen among what, by which trials, and what follows from a decision; results come from a formula."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.records import Selection
from simulated import setting, study_of
from studies import tiny
from study.cells import Cell
from study.choices import Choice, Decision, Option, Score
from study.config import Study
from study.grid import Expansion, expand
from study.load import parse_study
from study.trial import TrialSpec
from trainables.spec import DevSplit, Stage

GRID = {"architecture": ["r10w0.0625"], "label_fraction": [0.1]}
BEST = {**GRID, "head_layer": ["best"]}
RATE = "finetune.optimization.learning_rate"
RATES = {"learning_rate": {"log": [0.01, 1.0]}}
PRETRAIN: dict[str, dict[str, Any]] = {"pretrain": {}}


class Told:
    """Evidence of a formula: every choice of `stages` is decided by `score`, others stay open."""

    def __init__(self, stages: tuple[str, ...], score: Callable[[Option], float], samples: list[Cell] | None = None):
        self.stages, self.score, self.samples = stages, score, samples or []

    def sampled(self, choice: Choice) -> list[tuple[Cell, bool]]:
        return [(changes, True) for changes in self.samples]

    def decide(self, choice: Choice) -> Decision | None:
        if choice.stage not in self.stages:
            return None
        scores = tuple(Score(option, self.score(option)) for option in choice.options)
        return Decision(choice, max(choice.options, key=self.score), scores)


def undecided(study: Study, samples: list[Cell] | None = None) -> Expansion:
    return expand(study, Told((), lambda option: 0.0, samples))


def prefer(**wanted: Any) -> Callable[[Option], float]:
    """A score that is highest for options with these changes; dots are written as two underscores."""
    return lambda option: sum(option.changes.get(name.replace("__", ".")) == value for name, value in wanted.items())


def of_stage(expansion: Expansion, stage: Stage, dev: bool = False) -> list[TrialSpec]:
    return [spec for spec in expansion.specs.values() if spec.stage == stage and (spec.dev is not None) == dev]


def only_choice(expansion: Expansion) -> Choice:
    [choice] = expansion.choices.values()
    return choice


def held_out(spec: TrialSpec, folds: int = 5, fraction: float = 0.1) -> tuple[str, ...]:
    """Ids of the trials that are like this one but hold out a fold each."""
    splits = [DevSplit(label_fraction=fraction, folds=folds, fold=fold) for fold in range(folds)]
    return tuple(spec.model_copy(update={"dev": dev}).trial_id() for dev in splits)


def test_best_head_layer_is_sought_among_all_layers_by_trials_like_those_of_the_explicit_grid() -> None:
    stages = {**PRETRAIN, "finetune": {}}
    explicit = expand(study_of(stages, grid={**GRID, "head_layer": [0, 1, 2, 3]}))
    choice = only_choice(undecided(study_of(stages, grid=BEST)))
    assert [option.changes for option in choice.options] == [{"head_layer": layer} for layer in range(4)]
    assert [option.trials for option in choice.options] == [held_out(spec) for spec in of_stage(explicit, "finetune")]
    assert {option.needs for option in choice.options} == {
        tuple(of_stage(explicit, "pretrain")[0].trial_id() for _ in "1")
    }


def test_decided_grid_is_the_grid_with_the_best_layer_written_out() -> None:
    stages = {**PRETRAIN, "linear": {}, "finetune": {}, "distill": {}}
    decided = expand(study_of(stages, grid=BEST), Told(("finetune",), prefer(head_layer=2)))
    explicit = expand(study_of(stages, grid={**GRID, "head_layer": [2]}))
    assert {id for id, spec in decided.specs.items() if spec.dev is None} == set(explicit.specs)


def test_head_of_another_depth_has_other_layers() -> None:
    grid = {**BEST, "head_depth": [2, 4]}
    choices = undecided(study_of({**PRETRAIN, "finetune": {}}, grid=grid)).choices.values()
    assert [len(choice.options) for choice in choices] == [3, 5]


def test_selected_settings_are_the_product_of_the_values_and_equal_to_axes_of_a_grid() -> None:
    over = {"learning_rate": [0.1, 0.2], "head_layer": [0, 3]}
    study = study_of({**PRETRAIN, "finetune": {"select": {"over": over}}}, grid=GRID)
    choice = only_choice(undecided(study))
    product = [{RATE: rate, "head_layer": layer} for rate in (0.1, 0.2) for layer in (0, 3)]
    assert [option.changes for option in choice.options] == product
    explicit = expand(study_of({**PRETRAIN, "finetune": {}}, grid={**GRID, RATE: [0.1, 0.2], "head_layer": [0, 3]}))
    assert [option.trials for option in choice.options] == [held_out(spec) for spec in of_stage(explicit, "finetune")]
    decided = expand(study, Told(("finetune",), prefer(finetune__optimization__learning_rate=0.2, head_layer=3)))
    [final] = of_stage(decided, "finetune")
    assert final == of_stage(explicit, "finetune")[3]


def test_selected_value_counts_before_the_rules_of_the_stage() -> None:
    rule = {"where": {"architecture": "r10*"}, "set": {"optimization.learning_rate": 0.7, "optimization.epochs": 9}}
    recipe = {"select": {"over": {"learning_rate": [0.1, 0.2]}}, "when": [rule]}
    specs = of_stage(undecided(study_of({**PRETRAIN, "finetune": recipe}, grid=GRID)), "finetune", dev=True)
    assert {setting(spec, "optimization.learning_rate") for spec in specs} == {0.1, 0.2}
    assert {setting(spec, "optimization.epochs") for spec in specs} == {9}


def test_children_appear_after_the_decision_and_not_before() -> None:
    study = study_of({**PRETRAIN, "linear": {}, "finetune": {}, "distill": {}}, grid=BEST)
    evidence = Told((), prefer(head_layer=1))
    expansion = expand(study, evidence)
    assert {spec.stage for spec in expansion.specs.values() if spec.dev is None} == {"pretrain", "linear"}
    evidence.stages = ("finetune",)
    before = list(expansion.specs)
    expansion.decided(only_choice(expansion))
    new = list(expansion.specs)[len(before) :]
    assert list(expansion.specs)[: len(before)] == before
    assert [expansion.specs[id].stage for id in new] == ["finetune", "distill"]
    assert expansion.specs[new[1]].parent == new[0]
    assert [expansion.decisions[id][0].chosen.changes for id in new] == [{"head_layer": 1}] * 2
    assert not expansion.waiting


def test_trials_that_rest_on_no_choice_know_no_decision() -> None:
    study = study_of({**PRETRAIN, "linear": {}, "finetune": {}}, grid=BEST)
    expansion = expand(study, Told(("finetune",), prefer(head_layer=1)))
    assert {expansion.specs[id].stage for id in expansion.decisions} == {"finetune"}
    assert {expansion.specs[id].dev for id in expansion.decisions} == {None}


def test_teacher_of_a_trial_that_holds_out_a_fold_holds_out_the_same() -> None:
    study = study_of(
        {**PRETRAIN, "finetune": {}, "distill": {"select": {"over": {"temperature": [0.1, 1.0]}}}}, grid=GRID
    )
    expansion = undecided(study)
    students = of_stage(expansion, "distill", dev=True)
    assert len(students) == 10
    for student in students:
        assert student.parent is not None
        teacher = expansion.specs[student.parent]
        assert teacher.stage == "finetune" and teacher.dev == student.dev and teacher.parent is not None
        assert expansion.specs[teacher.parent].dev is None


def test_self_distilled_teacher_of_a_trial_that_holds_out_a_fold_holds_out_the_same() -> None:
    distill = {"teacher": "self-distilled", "student": "r10", "select": {"over": {"temperature": [0.5, 1.0]}}}
    expansion = undecided(study_of({**PRETRAIN, "finetune": {}, "distill": distill}, grid=GRID))
    for student in (spec for spec in of_stage(expansion, "distill", dev=True) if spec.architecture == "r10"):
        chain = [student]
        while chain[-1].parent is not None:
            chain.append(expansion.specs[chain[-1].parent])
        assert [spec.stage for spec in chain] == ["distill", "distill", "finetune", "pretrain"]
        assert {spec.dev for spec in chain[:3]} == {student.dev} and chain[3].dev is None


def test_pretraining_is_measured_on_all_labels_and_decided_before_what_builds_on_it() -> None:
    stages = {"pretrain": {"select": {"over": {"temperature": [0.1, 0.5]}}}, "linear": {}, "finetune": {}}
    study = study_of(stages, grid={**BEST, "label_fraction": [0.1, 0.2]})
    first = only_choice(undecided(study))
    assert first.stage == "pretrain" and "pct" not in first.id
    found = expand(study, Told(("pretrain",), prefer(pretrain__temperature=0.5)))
    assert {spec.dev.label_fraction for spec in of_stage(found, "pretrain", dev=True) if spec.dev} == {1.0}
    [chosen] = of_stage(found, "pretrain")
    assert setting(chosen, "temperature") == 0.5
    later = [choice for choice in found.choices.values() if choice.stage == "finetune"]
    assert [choice.cell["label_fraction"] for choice in later] == [0.1, 0.2]
    assert {spec.parent for spec in of_stage(found, "finetune", dev=True)} == {chosen.trial_id()}
    final = expand(study, Told(("pretrain", "finetune"), prefer(pretrain__temperature=0.5, head_layer=3)))
    [id, _] = [id for id, spec in final.specs.items() if spec.stage == "finetune" and spec.dev is None]
    assert [decision.choice.stage for decision in final.decisions[id]] == ["pretrain", "finetune"]


@pytest.mark.parametrize(("few_labels", "folds"), [(20, 5), (19, 1)])
def test_one_fold_is_held_out_where_labels_are_more_than_few(few_labels: int, folds: int) -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev={"few_labels": few_labels})
    dev = [spec.dev for spec in of_stage(undecided(study), "finetune", dev=True)]
    assert len(dev) == 4 * folds and {split.fold for split in dev if split} == set(range(folds))


def test_number_of_labels_is_what_the_shards_hold() -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST, dev={"few_labels": 25})
    counted = expand(study, labelled=lambda fraction: 26)
    assert {len(option.trials) for option in only_choice(counted).options} == {1}


def test_cells_that_share_trials_share_the_choice() -> None:
    grid = {**BEST, "temperature": [0.1, 1.0], "seed": [0, 1]}
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {}}, grid=grid)
    expansion = undecided(study)
    assert [choice.cell["seed"] for choice in expansion.choices.values()] == [0, 1]
    assert [len(waiting) for waiting in expansion.waiting.values()] == [3, 3]  # a fine-tuning and two students
    decided = expand(study, Told(("finetune",), prefer(head_layer=0)))
    assert (len(of_stage(decided, "finetune")), len(of_stage(decided, "distill"))) == (2, 4)
    assert dict(decided.naive) == {"pretrain": 4, "finetune": 4, "distill": 4}


def test_listed_layers_beside_the_best_are_run_whatever_is_best() -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid={**GRID, "head_layer": [0, "best"]})
    assert [setting(spec, "head_layer") for spec in of_stage(undecided(study), "finetune")] == [0]
    decided = expand(study, Told(("finetune",), prefer(head_layer=2)))
    assert [setting(spec, "head_layer") for spec in of_stage(decided, "finetune")] == [0, 2]
    same = expand(study, Told(("finetune",), prefer(head_layer=0)))
    assert [setting(spec, "head_layer") for spec in of_stage(same, "finetune")] == [0]


TEACHERS = {"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1], "head_layer": [0, 1]}


def test_best_teacher_is_sought_among_all_architectures_and_layers_with_the_labels_and_seed() -> None:
    stages = {**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}
    study = study_of(stages, grid={**TEACHERS, "label_fraction": [0.1, 0.2], "seed": [0, 1]})
    choices = list(undecided(study).choices.values())
    assert sorted((choice.cell["label_fraction"], choice.cell["seed"]) for choice in choices) == [
        (0.1, 0),
        (0.1, 1),
        (0.2, 0),
        (0.2, 1),
    ]
    finetuned = of_stage(expand(study), "finetune")
    for choice in choices:
        mine = [
            held_out(spec, fraction=float(choice.cell["label_fraction"]))
            for spec in finetuned
            if (setting(spec, "label_fraction"), spec.seed) == (choice.cell["label_fraction"], choice.cell["seed"])
        ]
        assert sorted(option.trials for option in choice.options) == sorted(mine) and len(mine) == 4


def test_student_of_the_best_teacher_is_that_of_a_grid_with_this_teacher_and_student() -> None:
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}, grid=TEACHERS)
    decided = expand(study, Told(("finetune",), prefer(teacher__architecture="r10w0.125", head_layer=1)))
    axes = {"architecture": ["r10w0.125"], "label_fraction": [0.1], "head_layer": [1]}
    students = {"distill.student": ["r10w0.0625", "same"]}
    explicit = expand(study_of({**PRETRAIN, "finetune": {}, "distill": {}}, grid={**axes, **students}))
    assert {spec.trial_id() for spec in of_stage(decided, "distill")} == {
        spec.trial_id() for spec in of_stage(explicit, "distill")
    }


def test_settings_chosen_for_a_teacher_are_sought_first_and_go_with_it() -> None:
    distill = {"teacher": "best"}
    grid = {**TEACHERS, "head_layer": ["best"]}
    study = study_of({**PRETRAIN, "finetune": {"search": RATES}, "distill": distill}, grid=grid)
    samples = [{RATE: 0.03, "head_layer": 2}, {RATE: 0.3, "head_layer": 0}]
    opened = undecided(study, samples)
    assert [choice.cell["architecture"] for choice in opened.choices.values()] == TEACHERS["architecture"]
    assert all(set(choice.space) == {RATE, "head_layer"} for choice in opened.choices.values())

    class FirstOnly(Told):
        def decide(self, choice: Choice) -> Decision | None:
            return None if choice.search is None else super().decide(choice)

    searched = expand(study, FirstOnly(("finetune",), prefer(head_layer=2), samples))
    teachers = next(choice for choice in searched.choices.values() if choice.search is None)
    assert [option.changes for option in teachers.options] == [
        {"teacher.architecture": name, "head_layer": 2, RATE: 0.03} for name in TEACHERS["architecture"]
    ]
    assert not of_stage(searched, "distill")

    best = prefer(head_layer=2, teacher__architecture="r10w0.125")
    final = expand(study, Told(("finetune",), best, samples))
    students = of_stage(final, "distill")
    parents = {final.specs[str(student.parent)] for student in students}
    assert [(spec.architecture, setting(spec, "optimization.learning_rate")) for spec in parents] == [
        ("r10w0.125", 0.03)
    ]


def test_best_teacher_of_one_cell_alone_has_no_choice_of_distillation_s_own() -> None:
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}, grid=TEACHERS)
    decided = expand(study, Told(("finetune", "distill"), prefer(head_layer=1)))
    assert {choice.stage for choice in decided.choices.values()} == {"finetune"}
    assert not of_stage(decided, "distill", dev=True)


def test_best_teacher_has_a_layer_that_its_head_has() -> None:
    grids = [{**GRID, "head_depth": [2], "head_layer": [2]}, {**GRID, "head_depth": [4], "head_layer": [4]}]
    study = study_of({**PRETRAIN, "finetune": {}, "distill": {"teacher": "best"}}, grid=grids)
    choices = undecided(study).choices.values()
    found = {
        choice.cell["head_depth"]: [option.changes["head_layer"] for option in choice.options] for choice in choices
    }
    assert found == {2: [2], 4: [2, 4]}


def test_distillation_is_searched_with_the_best_teacher() -> None:
    distill = {"teacher": "best", "search": {"temperature": {"log": [0.1, 1.0]}}}
    study = study_of({**PRETRAIN, "finetune": {}, "distill": distill}, grid=TEACHERS)
    evidence = Told(("finetune",), prefer(teacher__architecture="r10w0.125", head_layer=1), [{"temperature": 0.7}])
    found = expand(study, evidence)
    searches = [choice for choice in found.choices.values() if choice.search is not None]
    assert [choice.stage for choice in searches] == ["distill"] * 2
    for student in of_stage(found, "distill", dev=True):
        teacher = found.specs[str(student.parent)]
        assert (teacher.architecture, teacher.dev) == ("r10w0.125", student.dev)
        assert setting(student, "temperature") == 0.7


def search_id(search: dict[str, Any], **top: Any) -> str:
    return only_choice(undecided(study_of({**PRETRAIN, "finetune": {"search": search}}, grid=GRID, **top))).id


def test_a_search_keeps_its_id_when_its_budget_changes_and_not_when_what_is_searched_does() -> None:
    before = search_id({**RATES, "trials": 5})
    for same in ({"trials": 50}, {"device_hours": 2.0}, {"trials": 5, "pruner": "asha"}, {"parallel": 1}):
        assert search_id({**RATES, **same}) == before
    assert search_id({**RATES, "trials": 5}, execution={"per_worker": {"CPU": 2}}, name="other") == before
    others = [
        search_id({"learning_rate": {"log": [0.01, 2.0]}}),
        search_id({"learning_rate": {"uniform": [0.01, 1.0]}}),
        search_id({**RATES, "weight_decay": {"uniform": [0.0, 0.1]}}),
        search_id(RATES, dev={"folds": 4}),
        search_id(RATES, data={**tiny()["data"], "label_seed": 1}),
    ]
    assert len({before, *others}) == 1 + len(others)


def test_a_search_s_base_is_the_study_s_own_recipe() -> None:
    choice = only_choice(undecided(study_of({**PRETRAIN, "finetune": {"search": RATES}}, grid=GRID)))
    [plain] = of_stage(expand(study_of({**PRETRAIN, "finetune": {}}, grid=GRID)), "finetune")
    assert tuple(spec.trial_id() for spec in choice.base) == held_out(plain)
    assert choice.options == []


@given(st.randoms())
def test_choices_do_not_depend_on_the_order_of_keys(random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    stages = {name: dict(recipe) for name, recipe in copy.deepcopy(tiny()["stages"]).items()}
    stages["finetune"]["search"] = {**RATES, "weight_decay": {"uniform": [0.0, 0.1]}, "trials": 3}
    stages["supervised"]["select"] = {"over": {"learning_rate": [0.1, 0.2], "epochs": [1, 2]}}
    plain = tiny(stages=stages, grid=BEST)
    expected = undecided(parse_study(plain)).choices
    found = undecided(parse_study(shuffled(plain))).choices
    assert set(found) == set(expected)
    for id, choice in expected.items():
        assert sorted(option.trials for option in found[id].options) == sorted(
            option.trials for option in choice.options
        )


def test_a_decision_is_written_as_records_read_it() -> None:
    study = study_of({**PRETRAIN, "finetune": {}}, grid=BEST)
    expansion = expand(study, Told(("finetune",), prefer(head_layer=2)))
    [[decision]] = expansion.decisions.values()
    selection = Selection.model_validate(decision.plain())
    assert selection.chosen == {"head_layer": 2} and selection.by == "dev_top1" and selection.stage == "finetune"
    assert [candidate.dev_top1 for candidate in selection.among] == [0, 0, 1, 0]
    assert selection.among[3].trials == decision.choice.options[3].trials
