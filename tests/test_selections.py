"""What was chosen on held-out images is told in the report, and what only measured candidates is no result in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from reports.figures.scaling import accuracy_against_parameters
from reports.page import build_page
from reports.records import Record
from reports.results import Results, StudyInfo
from reports.scaling import size_points
from reports.selections import chosen_section, described, selections_of
from reports.tables import trials
from synthetic import plain, study

NOTHING: dict[str, Any] = {"choice": "c", "stage": "finetune", "by": "dev_top1", "among": []}
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


def layers_chosen(layers: dict[tuple[str, int], int]) -> list[Record]:
    """Fine-tuned trials of architectures and seeds, each from the layer that was chosen for it."""
    records = []
    for (name, seed), layer in layers.items():
        found = plain(f"f-{name}-{seed}", "finetune", name, seed, top1=0.5, label_fraction=0.01, head_layer=layer)
        among = [{"changes": {"head_layer": one}, "dev_top1": 0.5, "trials": []} for one in (0, 1)]
        choice = {"choice": f"c-{name}-{seed}", "stage": "finetune", "by": "dev_top1", "among": among}
        found["selections"] = [{**choice, "chosen": {"head_layer": layer}}]
        records.append(Record.model_validate(found))
    return records


def test_what_was_chosen_for_each_seed_and_model_is_shown_as_it_is() -> None:
    table = trials(layers_chosen({("r18", 0): 0, ("r18", 1): 1, ("r34", 0): 1, ("r34", 1): 1}))
    points = size_points(table)
    assert points["n"].tolist() == [2, 2] and points["caveat"].eq("").all()
    assert points["head_layer"].fillna(-1).tolist() == [-1, 1], "seeds of r18 have chosen different layers"
    hover = accuracy_against_parameters(table, table.iloc[:0]).data[0].hovertext[0]
    assert "settings chosen on held-out images" in hover and "head layer" not in hover


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found["metrics"].update(top1=0.5), "top1 beside spec.dev"),
        (lambda found: found.update(selections=[{**NOTHING, "chosen": {"head_layer": 2}}]), "one of the candidates"),
    ],
)
def test_choices_that_cannot_be_are_refused(change: Callable[[dict[str, Any]], None], reason: str) -> None:
    found = measuring(0, 0).model_dump(mode="json")
    change(found)
    with pytest.raises(ValidationError, match=reason):
        Record.model_validate(found)


def test_a_trial_that_measured_a_candidate_may_say_nothing_of_its_images() -> None:
    [first, *others] = [one.model_dump(mode="json") for one in a_study()]
    for one in others:
        one["metrics"].pop("evaluated", None)
    assert "not stated" in chosen_section([Record.model_validate(one) for one in (first, *others)])
