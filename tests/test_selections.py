"""What was chosen on held-out images is told in the report, and what only measured candidates is no result in it."""

from __future__ import annotations

from typing import Any

from reports.page import build_page
from reports.records import Record
from reports.results import Results, StudyInfo
from reports.selections import chosen_section, described, selections_of
from synthetic import plain, study

LAYERS = {0: 0.5, 1: 0.75, 2: None}  # head layer -> accuracy on held-out images; layer 2 failed


def measuring(layer: int, fold: int, folds: int = 2, images: int = 20) -> Record:
    """A trial that measured a head layer on one part of the labels."""
    found = plain(f"measures-h{layer}-{fold}", label_fraction=0.01, head_layer=layer)
    found["spec"]["dev"] = {"label_fraction": 0.01, "folds": folds, "fold": fold}
    found["metrics"] = {"dev_top1": LAYERS[layer], "dev_top5": 1.0, "dev_loss": 0.5, "evaluated": float(images)}
    return Record.model_validate(found)


def chosen(trial_id: str, parts: int = 2, **changes: Any) -> Record:
    """A trial that rests on the choice among the layers."""
    found = plain(trial_id, label_fraction=0.01, head_layer=1, **changes)
    among = [
        {
            "changes": {"head_layer": layer},
            "dev_top1": dev_top1,
            "trials": [f"measures-h{layer}-{n}" for n in range(parts)],
        }
        for layer, dev_top1 in LAYERS.items()
    ]
    choice = {"choice": "choose-finetune-r18", "stage": "finetune", "by": "dev_top1", "among": among}
    found["selections"] = [{**choice, "chosen": {"head_layer": 1}}]
    return Record.model_validate(found)


def a_study(parts: int = 2, folds: int = 2) -> list[Record]:
    measured = [measuring(layer, fold, folds) for layer in (0, 1) for fold in range(parts)]
    return [chosen("one", parts), chosen("two", parts, seed=1), *measured]


def test_trials_that_measure_candidates_are_no_results_but_cost_what_they_cost() -> None:
    results = Results(StudyInfo("s", ""), [*study(), *a_study()])
    [group] = results.groups
    assert {"one", "two"} <= set(group.trials["id"]) and not group.trials["id"].str.startswith("measures").any()
    assert set(results.table["id"]) == set(group.trials["id"])
    assert len(group.money.trials) == len(group.records) == len(group.trials) + 4


def test_a_choice_is_told_once_with_all_that_rests_on_it() -> None:
    found = selections_of(a_study())
    [(selection, used_by)] = found.values()
    assert used_by == ["one", "two"] and selection.chosen == {"head_layer": 1}


def test_section_names_the_chosen_its_rivals_and_the_images() -> None:
    text = chosen_section(a_study())
    for told in ("head_layer 1", "75.0", "50.0", "failed or stopped early", "cross-validation, 2 folds", ">40<"):
        assert told in text
    assert "measures-h0-1" in text and "no choice looked at test images" in text


def test_section_says_when_one_part_was_held_out() -> None:
    text = chosen_section(a_study(parts=1, folds=5))
    assert "one of 5 parts" in text and "cross-validation, 5" not in text


def test_a_study_in_which_nothing_was_chosen_has_no_such_section() -> None:
    assert chosen_section(study()) == ""
    assert 'id="chosen"' not in build_page(Results(StudyInfo("s", ""), study()))
    assert 'id="chosen"' in build_page(Results(StudyInfo("s", ""), [*study(), *a_study()]))


def test_settings_are_named_by_their_last_part() -> None:
    changes = {"finetune.optimization.learning_rate": 0.0312345, "head_layer": 2, "teacher.architecture": "r50"}
    assert described(changes) == "learning_rate 0.0312, head_layer 2, architecture r50"


def test_markup_in_changes_stays_text() -> None:
    found = plain("evil", label_fraction=0.01)
    evil = "<script>alert(1)</script>"
    among = [{"changes": {"teacher": evil}, "dev_top1": 0.5, "trials": ["a"]}]
    found["selections"] = [
        {"choice": "c", "stage": "finetune", "by": "dev_top1", "among": among, "chosen": {"teacher": evil}}
    ]
    assert evil not in chosen_section([Record.model_validate(found)])
