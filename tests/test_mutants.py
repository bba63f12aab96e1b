"""The list of `make mutate`: each of its mutations can be made, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mutants import data_and_study, networks_and_views, training
from mutants.__main__ import Mutant, misplaced

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = [*training.MUTANTS, *networks_and_views.MUTANTS, *data_and_study.MUTANTS]


def test_there_are_at_least_as_many_mutations_as_are_promised() -> None:
    assert len({(file, before, after) for file, before, after, _ in MUTANTS}) == len(MUTANTS) >= 120


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]}: {mutant[1].strip()[:40]}")
def test_mutation_changes_one_place_and_names_tests_that_exist(mutant: Mutant) -> None:
    assert not misplaced(mutant) and mutant[1] != mutant[2]
    for word in shlex.split(mutant[3]):
        file, _, test = word.partition("::")
        if file.endswith(".py"):
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not test or re.search(rf"def {re.escape(test.partition('[')[0])}\(", text), word
