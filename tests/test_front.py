"""The front and its area against brute force, and how much of it an exploration finds."""

from __future__ import annotations

import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.explore import corner, explored, hypervolume, paper_table_1, random_order, smallest_first, surface, walk
from study.explore import best_for_no_more

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(points, st.integers(0, 9), st.integers(0, 9))
def test_hypervolume_is_the_number_of_unit_squares_that_are_dominated(
    cells: list[tuple[int, int]], cost: int, accuracy: int
) -> None:
    squares = sum(
        any(c <= x and a >= y + 1 for c, a in cells) for x in range(cost) for y in range(accuracy, 10)
    )  # the square from (x, y) to (x + 1, y + 1)
    assert hypervolume([c for c, _ in cells], [a for _, a in cells], (cost, accuracy)) == squares


@given(points, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_front_moves_exactly_for_what_no_finished_cell_equals_or_beats(
    cells: list[tuple[int, int]], new: tuple[int, int]
) -> None:
    costs, accuracies = np.array([c for c, _ in cells], float), np.array([a for _, a in cells], float)
    reached = best_for_no_more(np.array([new[0]], float), costs, accuracies)
    assert (new[1] > reached[0]) == (not any(c <= new[0] and a >= new[1] for c, a in cells))


def test_table_1_is_mostly_found_with_half_of_its_device_hours() -> None:
    table = paper_table_1()
    assert len(table.cells) == 39
    found = [walk(table, explored(table, seed, 12)) for seed in range(3)]
    assert all(one.spent[-1] <= 0.5 + 1e-9 for one in found)
    hours = [one.needed(0.95, corner(table))[0] for one in found]
    drawn = [walk(table, random_order(table, seed)).needed(0.95, corner(table))[0] for seed in range(25)]
    assert statistics.median(hours) <= 0.5 < statistics.median(drawn)


def test_exploration_skips_what_smallest_first_would_train() -> None:
    grids = [surface(seed) for seed in range(3)]
    found = [walk(one, explored(one, seed, 12)).needed(0.95, corner(one)) for seed, one in enumerate(grids)]
    small = [walk(one, smallest_first(one)).needed(0.95, corner(one)) for one in grids]
    for ours, theirs in zip(zip(*found, strict=True), zip(*small, strict=True), strict=True):
        assert statistics.median(ours) < statistics.median(theirs)
