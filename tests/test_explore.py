"""Exploration of a grid: budgets, shared trainings, failures, resuming, and what is refused."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from study.cells import Cell
from study.explore import DIRECTIONS, Explorer, axis_positions, optimistic

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (0, 1, 2)
SIXTEEN = [1 + 0.1 * number for number in range(16)]  # so many that the sampler's proposals leave out most


def optuna_study(file: Path | None = None) -> optuna.Study:
    """An Optuna study in a journal, or in memory; made or opened again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None if file is None else JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(storage=storage, study_name="explored", directions=DIRECTIONS, load_if_exists=True)


def grid(sizes: Sequence[float], layers: Sequence[int] = LAYERS) -> tuple[list[Cell], list[dict[str, float]]]:
    """Architectures x head layers: one pretraining of `size` hours for each architecture, a tenth of it per child."""
    cells: list[Cell] = []
    work = []
    for (number, size), layer in itertools.product(enumerate(sizes), layers):
        cells.append({"architecture": f"r{number}", "head_layer": layer})
        work.append({f"pretrain-{number}": size, f"child-{number}-{layer}": size / 10})
    return cells, work


def explorer(cells: Sequence[Cell], work: Sequence[Mapping[str, float]], **changes: Any) -> Explorer:
    whole = sum({id: hours for needed in work for id, hours in needed.items()}.values())
    options = {
        "costs": [1e15 * sum(needed.values()) for needed in work],
        "budget": whole,
        "patience": 10 * len(cells) + 1,
        "seed": 0,
        **changes,
    }
    options.setdefault("optuna_study", optuna_study())
    return Explorer(cells, work, **options)


def luck(cell: int) -> float:
    """An accuracy that follows no rule."""
    return float(np.random.default_rng((7, cell)).random())


def finish(exploring: Explorer, accuracy: Callable[[int], float] = luck) -> list[int]:
    """Run an exploration to its end, one cell after the other."""
    order = []
    while (cell := exploring.ask()) is not None:
        exploring.tell(cell, accuracy(cell))
        order.append(cell)
    return order


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.1, 50), min_size=1, max_size=4),
    st.floats(0, 1),
    st.lists(st.sampled_from(["ask", "ask", "tell", "fail", "fail late"]), max_size=24),
    st.randoms(use_true_random=False),
)
def test_no_cell_twice_and_never_over_budget_whatever_fails(
    sizes: list[float], share: float, events: list[str], random: Any
) -> None:
    cells, work = grid(sizes)
    cheapest = min(sum(needed.values()) for needed in work)
    budget = cheapest + share * 1.3 * sum(sizes)
    exploring = explorer(cells, work, budget=budget)
    records: set[str] = set()
    running: dict[int, set[str]] = {}  # what each cell in flight trains itself, or leaves to another in flight
    asked, bill = [], 0.0
    for event in events:
        if event == "ask" and (cell := exploring.ask()) is not None:
            started = set(work[cell]) - records - set().union(*running.values())
            bill += sum(work[cell][id] for id in started)
            asked.append(cell)
            running[cell] = set(work[cell])
        elif event != "ask" and running:
            cell = random.choice(sorted(running))
            kept = [id for id in work[cell] if event == "fail late" and id.startswith("pretrain")]
            exploring.tell(cell, luck(cell)) if event == "tell" else exploring.fail(cell, kept)
            running.pop(cell)
            records |= set(work[cell]) if event == "tell" else set(kept)
        assert bill <= budget * (1 + 1e-6) and len(set(asked)) == len(asked)
        assert sorted(exploring.running) == sorted(running)
    assert exploring.ledger.read().spent == pytest.approx(bill)


def test_everything_is_explored_once_if_the_budget_is_the_whole_grid() -> None:
    cells, work = grid([0.1, 0.3, 0.7])  # sums of these are not exact in binary
    exploring = explorer(cells, work)
    assert sorted(finish(exploring)) == list(range(9))
    assert exploring.reason == "all 9 cells were started"


def test_pretraining_is_paid_once_for_all_of_its_children() -> None:
    cells, work = grid([10, 20])
    exploring = explorer(cells, work, budget=13)
    assert sorted(finish(exploring)) == [0, 1, 2]
    assert exploring.reason == "0 of 13 device-hours are left, and the cheapest of 3 unfinished cells takes 22"


def test_what_is_in_the_storage_is_free() -> None:
    cells, work = grid([10, 20])
    assert sorted(finish(explorer(cells, work, budget=6, paid=["pretrain-1"]))) == [3, 4, 5]
    results = explorer(cells, work, budget=12)
    for cell in (0, 1):
        results.tell(cell, 0.5)
    results.tell(0, 0.9)  # the first word counts
    assert results.ledger.read().spent == 0
    assert finish(results) == [2] and results.reason.startswith("11 of 12 device-hours are left")
    assert [trial.values[0] for trial in results.ledger.optuna_study.trials[:2]] == [0.5, 0.5]


def test_no_step_costs_more_than_all_before_it_unless_nothing_is_cheaper() -> None:
    sizes = [1.0, 1.6, 3.0, 7.0, 12.0, 40.0]
    for seed in range(3):
        cells, work = grid(sizes)
        paid: dict[str, float] = {}
        left = set(range(len(cells)))
        for cell in finish(explorer(cells, work, seed=seed)):
            prices = {i: sum(hours for id, hours in work[i].items() if id not in paid) for i in left}
            assert prices[cell] <= max(sum(paid.values()), 1.1 * min(prices.values())) + 1e-9
            paid |= work[cell]
            left.remove(cell)


def test_trainings_of_a_failed_cell_are_paid_again_unless_they_finished() -> None:
    cells, work = grid([10], layers=(0, 1))
    lost = explorer(cells, work, budget=22.0)
    assert lost.ask() == 0
    lost.fail(0)
    assert lost.ask() == 1 and lost.ledger.read().spent == pytest.approx(22)
    poor = explorer(cells, work, budget=21.9)
    assert poor.ask() == 0
    poor.fail(0)
    assert poor.ask() is None and poor.reason.startswith("10.9 of 21.9 device-hours are left")
    kept = explorer(cells, work, budget=12)
    assert kept.ask() == 0
    kept.fail(0, finished=["pretrain-0"])
    assert finish(kept) == [1] and kept.reason == "all 2 cells were started (1 failed)"


def test_failed_cells_are_handed_out_again_only_when_asked_to(tmp_path: Path) -> None:
    cells, work = grid([10], layers=(0, 1))
    first = explorer(cells, work, optuna_study=optuna_study(tmp_path / "journal"))
    assert first.ask() == 0
    first.fail(0, finished=["pretrain-0"])
    assert first.ask() == 1
    first.tell(1, 0.5)
    options = {"budget": 13.0, "paid": ["pretrain-0"]}
    again = explorer(cells, work, optuna_study=optuna_study(tmp_path / "journal"), **options)
    assert again.ask() is None
    retrying = explorer(cells, work, optuna_study=optuna_study(tmp_path / "journal"), retry_failed=True, **options)
    assert retrying.ask() == 0 and retrying.ledger.read().spent == pytest.approx(13)
    retrying.fail(0)
    assert retrying.ask() is None


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 5), st.lists(st.booleans(), min_size=10, max_size=10))
def test_resumed_exploration_is_the_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[bool]
) -> None:
    cells, work = grid(SIXTEEN)
    file = tmp_path_factory.mktemp("resumed") / "journal"

    def opened() -> Explorer:
        return explorer(cells, work, seed=seed, optuna_study=optuna_study(file))

    exploring, order = opened(), []
    for cut in cuts:
        cell = exploring.ask()
        assert cell is not None
        if cut:
            exploring = opened()  # the process ended while the cell was running
            assert exploring.ask() == cell
        exploring.tell(cell, luck(cell))
        order.append(cell)
        if cut:
            exploring = opened()
            exploring.tell(cell, luck(cell))
    uninterrupted = explorer(cells, work, seed=seed)
    for cell in order:
        assert uninterrupted.ask() == cell
        uninterrupted.tell(cell, luck(cell))


def test_running_cells_of_a_former_process_come_first(tmp_path: Path) -> None:
    cells, work = grid([1, 2])
    first = explorer(cells, work, optuna_study=optuna_study(tmp_path / "journal"))
    running = [first.ask() for _ in range(3)]
    second = explorer(cells, work, optuna_study=optuna_study(tmp_path / "journal"))
    assert second.running == running
    assert [second.ask() for _ in range(3)] == running
    assert second.ask() not in running


def test_seed_decides_the_order() -> None:
    cells, work = grid(SIXTEEN)
    orders = [finish(explorer(cells, work, seed=seed, budget=12)) for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_exploration_ends_when_the_front_stands_still() -> None:
    cells, work = grid([1, 2, 4, 9])
    exploring = explorer(cells, work, patience=4)
    assert len(finish(exploring, lambda cell: 0.5)) == 5  # the first, which is the cheapest, moved it
    assert exploring.reason == "the front has not moved for 4 finished cells"
    rising = explorer(cells, work, patience=1)
    assert len(finish(rising, lambda cell: 0.5 + (3 * (cell // 3) + cell % 3) / 100)) >= 2


def test_results_that_were_there_before_do_not_count_as_patience() -> None:
    cells, work = grid([1, 2, 4, 9])
    exploring = explorer(cells, work, patience=2)
    for cell in range(6):
        exploring.tell(cell, 0.5)
    assert len(finish(exploring, lambda cell: 0.5)) == 2


def test_reason_says_when_waiting_is_worth_it() -> None:
    cells, work = grid([1], layers=(0, 1))
    exploring = explorer(cells, work)
    assert {exploring.ask(), exploring.ask()} == {0, 1}
    assert exploring.ask() is None and exploring.reason == "all 2 cells were started; 2 still running"


def test_optuna_study_holds_every_cell_readably() -> None:
    cells, work = grid([1, 2])
    exploring = explorer(cells, work, budget=2.5)
    order = finish(exploring)
    trials = exploring.ledger.optuna_study.trials
    assert [trial.params for trial in trials] == [cells[cell] for cell in order]
    assert [trial.values for trial in trials] == [[luck(cell), 1e15 * sum(work[cell].values())] for cell in order]
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert [trial.user_attrs["device_hours"] for trial in trials] == pytest.approx([1.1, 0.1, 0.1])


def test_optuna_keeps_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    cells, work = grid([1, 2])
    exploring = explorer(cells, work)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    finish(exploring)
    assert capfd.readouterr() == ("", "")


def test_exploration_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, optuna\n"
        "from study.explore import Explorer\n"
        "cells, work = [{'a': n} for n in range(3)], [{str(n): 1.0 + n} for n in range(3)]\n"
        "study = optuna.create_study(directions=['maximize', 'minimize'])\n"
        "e = Explorer(cells, work, [1, 2, 3], budget=9, patience=9, seed=0, optuna_study=study)\n"
        "[e.tell(e.ask(), 0.5) for _ in cells]\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


CELLS, WORK = grid([10, 20])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 10.9}, "10.9 is less than the cheapest cell takes, 11 device-hours"),
        ({"budget": math.nan}, "nan is less than the cheapest cell takes"),
        ({"budget": 1.9, "paid": ["pretrain-1"]}, "1.9 is less than the cheapest cell takes, 2 device-hours"),
        ({"cells": [*CELLS[:-1], {"architecture": "r1"}]}, "cell 0 has architecture, head_layer, and cell 5 has arch"),
    ],
)
def test_wrong_explorations_are_refused(changes: dict[str, Any], message: str) -> None:
    study = optuna_study()
    with pytest.raises(ValueError, match=message):
        explorer(**{"cells": CELLS, "work": WORK, "optuna_study": study, **changes})
    assert study.trials == []


def test_optuna_study_of_something_else_is_refused() -> None:
    study = optuna_study()
    assert explorer(CELLS, WORK, optuna_study=study).ask() == 0
    cells, work = grid([10, 20, 30])
    with pytest.raises(ValueError, match=r"'explored' explored another grid: its trial 0 with .*'r0'.* another name"):
        explorer(cells, work, optuna_study=study)


def test_axes_are_ordered_by_size_or_by_hours() -> None:
    cells: list[Cell] = [{"name": name, "share": share} for name in ("b", "c", "a") for share in (0.1, 1, 0.01)]
    work = [{f"{cell['name']}{cell['share']}": {"b": 1.0, "c": 5.0, "a": 9.0}[str(cell["name"])]} for cell in cells]
    expected = [[name, share] for name in range(3) for share in (1, 2, 0)]
    assert axis_positions(cells, work).tolist() == expected


def test_promises_are_the_nearest_results_and_grow_with_the_distance() -> None:
    accuracies = np.array([0.2, 0.8])
    distances = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [3.0, 3.0]])
    found = optimistic(distances, accuracies, distances.min(axis=1))
    assert found.tolist() == pytest.approx([0.2, 0.8, 0.5 + 0.5 * 0.3, 0.5 + 0.3], abs=1e-4)
