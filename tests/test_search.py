"""Searches: what is sampled, judged and kept in the storage's journal."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from object_store import ObjectStore
from reports.storage import Storage
from simulated import study_of
from study.adaptive import Search
from study.choices import Choice
from study.config import Study
from study.grid import expand
from study.search import JOURNAL, Searches

GRID = {"architecture": ["r10w0.0625"], "label_fraction": [0.1]}
RATE, DECAY = "finetune.optimization.learning_rate", "finetune.optimization.weight_decay"
SPACE = {"learning_rate": {"log": [0.001, 1.0]}, "weight_decay": {"uniform": [0.0, 0.1]}}


def a_study(search: dict[str, Any], **grid: Any) -> Study:
    return study_of({"pretrain": {}, "finetune": {"search": search}}, grid={**GRID, **grid})


def choices_of(search: dict[str, Any], **grid: Any) -> list[Choice]:
    return list(expand(a_study(search, **grid)).choices.values())


def a_choice(**search: Any) -> Choice:
    return choices_of({**SPACE, **search})[0]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def quality(changes: dict[str, Any]) -> float:
    return 1 / (1 + 10 * abs(changes[RATE] - 0.1) + 10 * changes[DECAY])


def sample(searches: Searches, choice: Choice, count: int) -> list[dict[str, Any]]:
    """Ask and tell so often; all samples of the search by then."""
    for _ in range(count):
        number = searches.ask(choice)
        searches.tell(choice, number, quality(searches.samples(choice)[number][0]), "complete")
    return [changes for changes, _ in searches.samples(choice)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samples_lie_within_their_ranges(storage: Storage, sampler: str) -> None:
    space = {**SPACE, "epochs": {"int": [2, 4]}, "kept_head": {"choices": ["trained", "frozen"]}}
    [choice] = choices_of({**space, "sampler": sampler})
    searches = Searches(storage)
    for number in range(15):
        assert searches.ask(choice) == number
        searches.tell(choice, number, 0.5, "complete")
    found = [changes for changes, _ in searches.samples(choice)]
    assert all(0.001 <= one[RATE] <= 1 and 0 <= one[DECAY] <= 0.1 for one in found)
    assert {one["finetune.optimization.epochs"] for one in found} == {2, 3, 4}
    assert {type(one["finetune.optimization.epochs"]) for one in found} == {int}
    assert {one["finetune.kept_head"] for one in found} == {"trained", "frozen"}
    assert min(one[RATE] for one in found) < 0.03 < max(one[RATE] for one in found)  # a log scale reaches both


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samples_are_those_of_the_seed_also_over_interruptions(tmp_path: Path, sampler: str) -> None:
    choice = a_choice(sampler=sampler)
    whole = sample(Searches(Storage(str(tmp_path / "whole"))), choice, 14)  # TPE models from its eleventh sample on
    for _ in range(14):
        resumed = sample(Searches(Storage(str(tmp_path / "resumed"))), choice, 1)
    assert resumed == whole
    other = sample(Searches(Storage(str(tmp_path / "other"))), a_choice(sampler=sampler, seed=1), 14)
    assert all(one != another for one, another in zip(whole, other, strict=True))


def test_journal_whose_last_line_was_cut_off_goes_on_without_it(tmp_path: Path) -> None:
    choice = a_choice()
    whole = sample(Searches(Storage(str(tmp_path / "whole"))), choice, 6)
    cut = Storage(str(tmp_path / "cut"))
    sample(Searches(cut), choice, 5)
    Searches(cut).ask(choice)
    journal = tmp_path.joinpath("cut", *JOURNAL)
    journal.write_bytes(journal.read_bytes()[:-20])
    assert len(Searches(cut).samples(choice)) == 5, "who only reads passes over it"
    assert sample(Searches(cut), choice, 1) == whole
    assert sample(Searches(cut), choice, 1)[:6] == whole, "the file is whole again"


def test_cells_sample_differently(storage: Storage) -> None:
    one, other = choices_of(SPACE, seed=[0, 1])
    searches = Searches(storage)
    assert sample(searches, one, 3) != sample(searches, other, 3)


def test_tpe_learns_from_what_it_is_told(tmp_path: Path) -> None:
    def late_mean(sampler: str) -> float:
        late = []
        for seed in range(5):
            searches = Searches(Storage(str(tmp_path / sampler / str(seed))))
            late += sample(searches, a_choice(sampler=sampler, seed=seed), 40)[20:]
        return sum(map(quality, late)) / len(late)

    assert late_mean("tpe") > late_mean("random") + 0.05


def test_states_of_samples_are_what_was_told_first(storage: Storage) -> None:
    choice, searches = a_choice(), Searches(storage)
    assert searches.samples(choice) == []
    for _ in range(4):
        searches.ask(choice)
    searches.tell(choice, 0, 0.5, "complete")
    searches.tell(choice, 1, None, "failed")
    searches.tell(choice, 2, None, "pruned")
    searches.tell(choice, 0, None, "failed")
    searches.tell(choice, 1, 0.9, "complete")
    expected = ["complete", "failed", "pruned", "running"]
    assert [state for _, state in searches.samples(choice)] == expected
    assert [state for _, state in Searches(storage).samples(choice)] == expected


def report(searches: Searches, choice: Choice, values: list[float], step: int = 1) -> list[bool]:
    """Ask for a sample for each value, report it at the step, and end those that are not pruned."""
    verdicts = []
    for value in values:
        number = searches.ask(choice)
        verdicts.append(searches.report(choice, number, step, value))
        searches.tell(choice, number, *((None, "pruned") if verdicts[-1] else (value, "complete")))
    return verdicts


def test_asha_goes_on_with_the_best_third_at_each_point(storage: Storage) -> None:
    values = [0.5, 0.4, 0.6, 0.55, 0.3, 0.7, 0.65, 0.2, 0.59, 0.61]
    expected = []
    for count, value in enumerate(values, 1):  # of those that have been there by now
        better = sum(other > value for other in values[:count])
        expected.append(better >= max(1, count // 3))
    assert sum(expected) == 5
    assert report(Searches(storage), a_choice(pruner="asha"), values) == expected


def test_median_stops_who_is_below_the_middle_of_the_others_at_the_same_point(storage: Storage) -> None:
    choice, searches = a_choice(pruner="median"), Searches(storage)
    assert report(searches, choice, [0.1, 0.9, 0.3, 0.7, 0.5]) == [False] * 5  # as long as there are few
    assert report(searches, choice, [0.49, 0.51]) == [True, False]
    assert report(searches, choice, [0.01], step=2) == [False]  # nobody has been there


def test_without_a_pruner_nobody_is_stopped(storage: Storage) -> None:
    assert not any(report(Searches(storage), a_choice(), [0.9] * 6 + [0.0] * 6))


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_other_searches_are_never_compared_with(storage: Storage, pruner: str) -> None:
    good, bad = choices_of({**SPACE, "pruner": pruner}, architecture=["r10w0.0625", "r10w0.125"])
    searches = Searches(storage)
    report(searches, good, [0.9] * 9)
    assert report(searches, bad, [0.1, 0.1, 0.1]) == [False] * 3


def test_a_point_that_an_interrupted_training_passes_twice_counts_once(storage: Storage) -> None:
    choice, searches = a_choice(pruner="asha"), Searches(storage)
    for value in (0.5, 0.6):
        assert not searches.report(choice, searches.ask(choice), 1, value)
    resumed = Searches(storage)
    assert not resumed.report(choice, 0, 1, 0.1)
    assert resumed.report(choice, resumed.ask(choice), 1, 0.55)  # two better or equal ones have been here: 0.6 is best
    [study] = load_all(storage)
    assert [trial.intermediate_values for trial in study.trials] == [{1: 0.5}, {1: 0.6}, {1: 0.55}]


def load_all(storage: Storage) -> list[optuna.Study]:
    """All studies of the journal, opened as optuna-dashboard opens it, from the file alone."""
    backend = optuna.storages.journal.JournalFileBackend(storage.path(*JOURNAL))
    journal = optuna.storages.JournalStorage(backend)
    return [optuna.load_study(study_name=name, storage=journal) for name in optuna.get_all_study_names(journal)]


def test_optuna_opens_the_journal_and_finds_the_best(storage: Storage) -> None:
    choice = a_choice()
    found = sample(Searches(storage), choice, 6)
    [study] = load_all(storage)
    assert study.study_name == choice.id
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.best_params == max(found, key=quality) and study.best_value == max(map(quality, found))


def test_a_search_begins_with_the_winners_of_earlier_ones_over_the_same_ranges(storage: Storage) -> None:
    searches, winners = Searches(storage), []
    for choice in choices_of(SPACE, seed=[0, 1, 2, 3, 4]):
        for count in range(5):
            searches.tell(choice, searches.ask(choice), count / 10, "complete")
        winners.append(searches.samples(choice)[-1][0])
    [later] = choices_of(SPACE, architecture=["r18"])
    found = sample(Searches(storage), later, 4)
    assert found[:3] == winners[:1:-1] and found[3] not in winners


def test_winners_of_other_ranges_or_stages_and_what_never_ended_are_no_beginning(storage: Storage) -> None:
    searches = Searches(storage)
    other = choices_of({**SPACE, "learning_rate": {"log": [0.001, 2.0]}})[0]
    [stage] = expand(study_of({"supervised": {"search": SPACE}}, grid=GRID)).choices.values()
    [failed] = choices_of(SPACE, seed=[7])
    winner = sample(searches, other, 1)[0]
    sample_stage = searches.ask(stage)
    searches.tell(stage, sample_stage, 0.9, "complete")
    searches.tell(failed, searches.ask(failed), None, "failed")
    alone = Searches(Storage(storage.root + "-alone"))
    [later] = choices_of(SPACE, seed=[3])
    number, expected = searches.ask(later), alone.ask(later)
    assert searches.samples(later)[number] == alone.samples(later)[expected]
    assert searches.samples(later)[number][0] != winner


def test_a_beginning_is_sampled_once_and_survives_an_interruption(storage: Storage) -> None:
    [earlier], [later] = choices_of(SPACE, seed=[0]), choices_of(SPACE, seed=[1])
    winner = max(sample(Searches(storage), earlier, 3), key=quality)
    assert Searches(storage).ask(later) == 0
    assert Searches(storage).ask(later) == 1
    first, second = Searches(storage).samples(later)
    assert first == (winner, "running") and second[0] != winner


def test_a_storage_that_is_not_local_keeps_the_journal_after_every_change(store: ObjectStore) -> None:
    storage = Storage(store.bucket("journal"))
    choice = a_choice(pruner="asha")
    first = Searches(storage)
    number = first.ask(choice)
    assert Searches(storage).samples(choice) == first.samples(choice) and number == 0
    assert not first.report(choice, number, 1, 0.5)
    first.tell(choice, number, 0.5, "complete")
    assert [state for _, state in Searches(storage).samples(choice)] == ["complete"]
    second = Searches(storage)
    assert second.report(choice, second.ask(choice), 1, 0.4)  # worse than the first one, judged by another process
    third = Searches(storage)
    assert third.report(choice, third.ask(choice), 1, 0.45)
    lines = storage.read_bytes(*JOURNAL).decode().splitlines()
    assert all(json.loads(line) for line in lines)


def test_searches_of_two_processes_in_turn_give_the_samples_of_one(tmp_path: Path) -> None:
    choice = a_choice()
    one, turns = Searches(Storage(str(tmp_path / "one"))), Storage(str(tmp_path / "turns"))
    pair = itertools.cycle([Searches(turns), Searches(turns)])
    for _ in range(6):
        sample(next(pair), choice, 1)
    assert sample(one, choice, 6) == [changes for changes, _ in Searches(turns).samples(choice)]


def test_a_journal_that_ends_after_any_line_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    """As a launch that was killed leaves it."""
    earlier, later = choices_of({**SPACE, "sampler": "random"}, seed=[0, 1])
    whole = Storage(str(tmp_path / "whole"))
    sample(Searches(whole), earlier, 2)
    begun = len(whole.read_bytes(*JOURNAL).splitlines())
    expected = sample(Searches(whole), later, 3)
    lines = whole.read_bytes(*JOURNAL).splitlines(keepends=True)
    assert len(lines) > begun + 6
    for count in range(begun, len(lines)):
        cut = Storage(str(tmp_path / str(count)))
        cut.write_bytes(b"".join(lines[:count]), *JOURNAL)
        searches = Searches(cut)
        for number, (changes, state) in enumerate(searches.samples(later)):
            assert changes.keys() == {RATE, DECAY}
            if state == "running":
                searches.tell(later, number, quality(changes), "complete")
        assert sample(searches, later, 3 - len(searches.samples(later))) == expected
        assert {state for _, state in searches.samples(later)} == {"complete"}


def test_reading_makes_no_file(storage: Storage) -> None:
    assert Searches(storage).samples(a_choice()) == []
    assert not storage.exists("search")


def test_search_settings_are_as_assumed() -> None:
    search = Search.model_validate(SPACE)
    assert (search.sampler, search.pruner, search.parallel, search.seed) == ("tpe", "none", 4, 0)
