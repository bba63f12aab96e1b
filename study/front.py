"""The front of cells that cost little and are accurate: what moves it, and the area that it spans."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def hypervolume(costs: ArrayLike, accuracies: ArrayLike, reference: tuple[float, float]) -> float:
    """Area between the front of some cells and a reference point (a cost, an accuracy).

    It is the area of all points that are better than the reference in both and no better than one of the cells in
    both. `costs` (lower is better) and `accuracies` (higher is better) are (n,). The unit is that of a cost times an
    accuracy; pass logarithms of costs for an area in which every doubling counts the same.
    """
    costs, accuracies = np.asarray(costs, np.float64), np.asarray(accuracies, np.float64)
    area, best = 0.0, reference[1]
    for i in np.lexsort((-accuracies, costs)):
        area += max(0.0, reference[0] - costs[i]) * max(0.0, accuracies[i] - best)
        best = max(best, accuracies[i])
    return float(area)


def best_for_no_more(costs: Floats, finished_costs: Floats, accuracies: Floats) -> Floats:
    """For each of `costs` (n, k): the highest accuracy among the finished cells (m, k), (m,) that exceed none of its k
    costs, -inf where there is none.

    A new cell moves the front exactly if its accuracy is above that.
    """
    no_more = (finished_costs[None] <= costs[:, None]).all(axis=2)
    reached: Floats = np.where(no_more, accuracies[None], -np.inf).max(axis=1, initial=-np.inf)
    return reached
