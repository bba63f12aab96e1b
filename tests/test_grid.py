from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from studies import tiny, tiny_study
from study.grid import expand
from study.load import parse_study
from study.trial import canonical_json, parse_trial
from trainables.spec import DistillSettings, FinetuneSettings


def grid(**axes: Any) -> dict[str, Any]:
    return {"architecture": ["r18"], "label_fraction": [0.1], **axes}


def test_cells_share_the_trials_that_they_agree_on() -> None:
    # 13 architectures x 3 fractions x 4 layers x 5 temperatures: 780 cells of three stages, 13 + 156 + 780 trainings
    architectures = [f"r{depth}{width}{sk}" for depth in (50, 101, 152) for width in ("", "w2") for sk in ("", "sk")]
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "finetune", "distill")}
    study = tiny_study(
        stages=stages,
        grid=grid(
            architecture=[*architectures, "r152w3sk"],
            label_fraction=[0.01, 0.1, 1.0],
            head_layer=[0, 1, 2, 3],
            temperature=[0.1, 0.25, 0.5, 1.0, 2.0],
        ),
    )
    trials = expand(study)
    assert trials.cells == 780
    assert sum(trials.naive.values()) == 2340
    assert len(trials.specs) == 949


def test_grids_that_vary_different_settings_share_no_trial_where_their_values_are_equal() -> None:
    one, other = grid(**{"supervised.optimization.epochs": [5]}), grid(**{"supervised.optimization.warmup_epochs": [5]})
    stages = {"supervised": tiny()["stages"]["supervised"]}
    specs = expand(tiny_study(grid=[one, other], stages=stages)).specs.values()
    found = [(spec.settings.optimization.epochs, spec.settings.optimization.warmup_epochs) for spec in specs]
    assert found == [(5, 0.0), (2, 5.0)]


def test_parents_come_before_their_children() -> None:
    seen: set[str | None] = {None}
    for id, spec in expand(tiny_study()).specs.items():
        assert spec.parent in seen
        seen.add(id)


def test_naive_count_includes_the_parents_of_a_single_stage() -> None:
    trials = expand(tiny_study(grid=grid(head_layer=[0, 1], stages=["distill"])))
    assert dict(trials.naive) == {"pretrain": 2, "finetune": 2, "distill": 2}
    assert len(trials.specs) == 5


@given(st.randoms())
def test_id_does_not_depend_on_the_order_of_keys(random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    assert set(expand(parse_study(shuffled(tiny()))).specs) == set(expand(tiny_study()).specs)


def test_id_changes_with_every_setting_and_not_with_execution() -> None:
    before = set(expand(tiny_study()).specs)
    assert set(expand(tiny_study(execution={"workers": 4, "per_worker": {"GPU": 1}}, name="other")).specs) == before
    data = {**tiny()["data"], "source": "/elsewhere"}
    assert set(expand(tiny_study(data=data)).specs) == before
    stages = copy.deepcopy(tiny()["stages"])
    stages["pretrain"]["optimization"]["learning_rate"] = 0.31
    changed = set(expand(tiny_study(stages=stages)).specs)
    assert {id.split("-")[0] for id in before & changed} == {
        "supervised"
    }  # everything else descends from the pretraining


def test_default_written_out_is_the_same_trial() -> None:
    stages = copy.deepcopy(tiny()["stages"])
    stages["pretrain"]["optimization"]["momentum"] = 0.9
    assert set(expand(tiny_study(stages=stages)).specs) == set(expand(tiny_study()).specs)


def test_specification_survives_the_process_line() -> None:
    for id, spec in expand(tiny_study()).specs.items():
        again = parse_trial(json.loads(canonical_json(spec.plain())))
        assert again == spec and again.trial_id() == id


def test_rules_apply_where_all_their_axes_match() -> None:
    stages = copy.deepcopy(tiny()["stages"])
    stages["finetune"]["when"] = [
        {"where": {"architecture": ["*w2*", "*sk"]}, "set": {"optimization.learning_rate": 0.002}},
        {"where": {"label_fraction": 0.01, "architecture": "r18*"}, "set": {"optimization.epochs": 60}},
    ]
    study = tiny_study(stages=stages, grid=grid(architecture=["r18", "r18w2", "r34"], label_fraction=[0.01, 1]))
    found = {
        (spec.architecture, spec.settings.label_fraction): (
            spec.settings.optimization.learning_rate,
            spec.settings.optimization.epochs,
        )
        for spec in expand(study).specs.values()
        if isinstance(spec.settings, FinetuneSettings)
    }
    assert found == {
        ("r18", 0.01): (0.02, 60),
        ("r18", 1.0): (0.02, 2),
        ("r18w2", 0.01): (0.002, 60),
        ("r18w2", 1.0): (0.002, 2),
        ("r34", 0.01): (0.02, 2),
        ("r34", 1.0): (0.02, 2),
    }


def test_small_student_is_taught_by_the_self_distilled_teacher() -> None:
    axes = {"distill.teacher": "self-distilled", "distill.student": "r10", "temperature": 1.0, "stages": ["distill"]}
    specs = expand(tiny_study(grid=grid(**axes))).specs
    student = next(spec for spec in specs.values() if spec.architecture == "r10")
    assert student.parent is not None
    teacher = specs[student.parent]
    assert (teacher.stage, teacher.architecture) == ("distill", "r18")
    assert isinstance(teacher.settings, DistillSettings) and teacher.settings.temperature == 0.1
    assert teacher.parent is not None and specs[teacher.parent].stage == "finetune"


def test_distillation_keeps_a_label_fraction_only_where_it_reads_labels() -> None:
    axes = {"distill.distillation_weight": [1.0, 0.5], "distill.images": ["all", "labelled"]}
    read = {
        (spec.settings.distillation_weight, spec.settings.images): spec.settings.label_fraction
        for spec in expand(tiny_study(grid=grid(**axes))).specs.values()
        if isinstance(spec.settings, DistillSettings)
    }
    assert read == {(1.0, "all"): None, (1.0, "labelled"): 0.1, (0.5, "all"): 0.1, (0.5, "labelled"): 0.1}


def test_a_kept_head_needs_a_head_that_is_kept() -> None:
    """Fine-tuning from the encoder's output keeps no layer, so that its trial is the same for both choices."""
    grid = {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "head_layer": [0, 1]}
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "finetune")}
    ids = []
    for kept_head in ("trained", "frozen"):
        changed = {**stages, "finetune": {**stages["finetune"], "kept_head": kept_head}}
        specs = expand(tiny_study(grid=grid, stages=changed)).specs
        ids.append({spec.settings.head_layer: id for id, spec in specs.items() if spec.stage == "finetune"})  # type: ignore[union-attr]
    assert ids[0][0] == ids[1][0] and ids[0][1] != ids[1][1]
