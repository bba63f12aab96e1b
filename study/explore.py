"""Adaptive exploration of a grid: which cell to train next, so that a budget buys most of the front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from study.adaptive import Scalar
from study.cells import Cell
from study.ledger import Entries, Ledger, values_of

Floats = NDArray[np.float64]

DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
"""Of what is explored: an accuracy, known only after training, against a cost, which a plan knows beforehand."""

PROPOSALS = 16  # of Optuna's sampler for each cell that is started
STARTUP = 4  # finished cells before TPE has anything to tell good ones from bad ones by; until then it draws uniformly
ALIKE = 1.1  # times the cheapest price: cells that share its pretraining, say, and differ in what is cheap
FREE = 0.01  # of all hours so far: a cell that takes less is not preferred for being cheaper still


def best_for_no_more(costs: Floats, finished_costs: Floats, accuracies: Floats) -> Floats:
    """For each of `costs` (n,): the highest accuracy among the finished cells (m,), (m,) that cost no more, -inf where
    there is none.

    A new cell moves the front exactly if its accuracy is above that.
    """
    no_more = finished_costs[None] <= costs[:, None]
    reached: Floats = np.where(no_more, accuracies[None], -np.inf).max(axis=1, initial=-np.inf)
    return reached


def optimistic(distances: Floats, accuracies: Floats, nearest: Floats) -> Floats:
    """Accuracies (n,) to hope for in cells at `distances` (n, m) from the m finished ones with `accuracies` (m,).

    The mean of the finished ones weighted by the inverse cube of the distance (Shepard, "A two-dimensional
    interpolation function for irregularly-spaced data", 1968), plus, in proportion to `nearest` (n,), the distance to
    the nearest cell that is finished or running, up to one standard deviation of the finished ones.
    """
    weights = (distances + 0.02) ** -3  # the summand keeps them finite; the whole length of an axis is a distance of 1
    mean = weights @ accuracies / weights.sum(axis=1)
    hoped: Floats = mean + accuracies.std() * np.minimum(nearest, 1)
    return hoped


class Explorer:
    """Hands out the cells of a grid, one by one, for as long as they are worth their device-hours.

    A cell takes trainings (`work`: device-hours by trial id); a training that several cells share is paid once, and
    `paid` ones, whose records are in the storage, are free. What a cell still takes is its price. The next cell is
    found so:

    1. Its price is at most what is left of the budget, and at most what all trainings behind the finished cells took,
       so that no step costs more than everything that it builds on. If nothing is that cheap, the cheapest cells are
       let pass, up to `ALIKE` times the cheapest's price. The first cell is the cheapest.
    2. Optuna's multi-objective TPE, which knows every finished cell and is kept away from the running ones, makes
       `PROPOSALS` proposals over the axes; each is moved to the nearest cell that rule 1 lets pass.
    3. Of these the one is taken that promises most accuracy above the front (above the best finished cell that costs
       no more) for each device-hour of its price; what it promises is `optimistic`.

    For TPE and for distances an axis is an order: numbers by size, names by the hours of their cells. Costs enter TPE
    as logarithms. All state is in the Optuna study, as `Ledger` describes it: a new Explorer on the same study goes on
    where the last one stopped, and makes the choices that the last one would have made.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        work: Sequence[Mapping[str, float]],
        costs: Sequence[float],
        *,
        budget: float,
        patience: int,
        seed: int,
        optuna_study: optuna.Study,
        paid: Iterable[str] = (),
        retry_failed: bool = False,
    ) -> None:
        """`costs` are what accuracies are weighed against, one of each cell; `budget` is in device-hours and includes
        what the Optuna study (of `DIRECTIONS`) says was spent before; the exploration ends when the front has not moved
        for `patience` finished cells. Cells that failed before are left out unless `retry_failed`.

        Raises ValueError for cells with different axes, a budget below the price of the cheapest cell, and an Optuna
        study of another grid.
        """
        self.cells, self.work, self.budget, self.patience, self.seed = cells, work, budget, patience, seed
        self.paid = set(paid)
        self.reason = ""  # why the last `ask` gave no cell
        _check(cells, work, self.paid, budget)
        self.costs = np.array(costs, np.float64)
        assert self.costs.shape == (len(cells),) and (self.costs > 0).all()
        self.positions = axis_positions(cells, work)
        self.steps = np.maximum(self.positions.max(axis=0), 1)
        self.ledger = Ledger(optuna_study, cells, retry_failed)
        self.handed_out: set[int] = set()

    def ask(self) -> int | None:
        """Index of the cell to train now; None, with a `reason`, when none should be started.

        Never a cell twice, except that cells which a former process left running are handed out again, first. Cells
        may be asked for while others run. After None it is worth asking again only when a running cell has ended.
        """
        entries = self.ledger.read()
        self.reason = ""
        interrupted = [cell for cell in entries.running if cell not in self.handed_out]
        if interrupted:
            self.handed_out.add(interrupted[0])
            return interrupted[0]
        prices = self._affordable(entries)
        if not prices:
            return None
        cell = self._choose(entries, prices)
        self.ledger.start(cell, prices[cell])
        self.handed_out.add(cell)
        return cell

    def tell(self, cell: int, accuracy: float, device_hours: float | None = None) -> None:
        """A cell finished with this accuracy, in [0, 1], and took so many `device_hours` (default: as predicted).

        It need not have been asked for: results that are there without this exploration are told for nothing. To tell
        a finished cell again changes nothing.
        """
        assert 0 <= accuracy <= 1, f"the accuracy of cell {cell} is {accuracy}"
        if cell not in self.ledger.read().finished:
            self.ledger.finish(cell, accuracy, float(self.costs[cell]), device_hours)

    def fail(self, cell: int, finished: Iterable[str] = ()) -> None:
        """A running cell failed; `finished` are those of its trainings that have a record all the same.

        It is not handed out again, and its price stays spent, whether or not all of it was used. The next cell that
        needs one of its other trainings pays for it again.
        """
        self.ledger.fail(cell)
        self.paid |= set(finished)

    @property
    def running(self) -> list[int]:
        """Cells handed out, by this process or a former one, that have neither finished nor failed."""
        return self.ledger.read().running

    def _affordable(self, entries: Entries) -> dict[int, float]:
        """Prices in device-hours of the cells that may be started; where there are none, the reason is set."""
        waiting = f"; {len(entries.running)} still running" if entries.running else ""
        unmoved = self._unmoved(entries)
        if unmoved >= self.patience:
            self.reason = f"the front has not moved for {unmoved} finished cells{waiting}"
            return {}
        paid = self.paid.union(*(self.work[cell] for cell in (*entries.finished, *entries.running)))
        gone = {*entries.finished, *entries.running, *entries.failed}
        prices = {cell: _hours(self.work[cell], paid) for cell in range(len(self.cells)) if cell not in gone}
        if not prices:
            failed = f" ({len(entries.failed)} failed)" if entries.failed else ""
            self.reason = f"all {len(self.cells)} cells were started{failed}{waiting}"
            return {}
        left = self.budget - entries.spent
        affordable = {cell: price for cell, price in prices.items() if price <= left + 1e-9 * self.budget}
        if not affordable:
            self.reason = (
                f"{max(left, 0):.4g} of {self.budget:.4g} device-hours are left, and the cheapest of {len(prices)} "
                f"unfinished cells takes {min(prices.values()):.4g}{waiting}"
            )
        return affordable

    def _choose(self, entries: Entries, prices: Mapping[int, float]) -> int:
        by_price = sorted(prices, key=lambda cell: (prices[cell], cell))
        done = list(entries.finished)
        if not done:
            return by_price[0]
        so_far = _hours({id: hours for cell in done for id, hours in self.work[cell].items()})
        limit = max(so_far, ALIKE * prices[by_price[0]])
        allowed = np.array([cell for cell in by_price if prices[cell] <= limit])
        proposed = self._distances(self._propose(entries), self.positions[allowed])
        near = allowed[sorted(set(proposed.round(9).argmin(axis=1).tolist()))]  # of equally near cells the cheapest
        accuracies = np.array(list(entries.finished.values()))
        distances = self._distances(self.positions[near], self.positions[done + entries.running])
        promised = optimistic(distances[:, : len(done)], accuracies, distances.min(axis=1))
        gain = promised - np.maximum(best_for_no_more(self.costs[near], self.costs[done], accuracies), 0)
        hours = np.maximum([prices[cell] for cell in near.tolist()], FREE * so_far)
        return int(near[np.where(gain > 0, gain / hours, gain).argmax()])

    def _propose(self, entries: Entries) -> NDArray[np.int64]:
        """Positions (PROPOSALS, axes) that TPE proposes; a function of the ledger and the seed."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce each of these short-lived studies
        seed = int(np.random.SeedSequence((self.seed, entries.trials)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
        scratch = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
        axes = [(axis, IntDistribution(0, int(steps))) for axis, steps in zip(self.cells[0], self.steps, strict=True)]
        log_costs = np.log(self.costs / self.costs.min())
        for cell in (*sorted(entries.finished), *sorted(entries.running)):
            finished = cell in entries.finished
            scratch.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if finished else TrialState.RUNNING,
                    params={axis: int(at) for (axis, _), at in zip(axes, self.positions[cell], strict=True)},
                    distributions=dict(axes),
                    values=[entries.finished[cell], float(log_costs[cell])] if finished else None,
                )
            )
        asked = [scratch.ask(dict(axes)).params for _ in range(PROPOSALS)]  # each kept away from those before it
        return np.array([[params[axis] for axis, _ in axes] for params in asked])

    def _unmoved(self, entries: Entries) -> int:
        """How many cells finished since the front moved; results that were there anyway are none of them."""
        done, accuracies, unmoved = list(entries.finished), np.array(list(entries.finished.values())), 0
        costs = self.costs[done]
        for last in reversed(range(len(done))):
            if accuracies[last] > best_for_no_more(costs[last : last + 1], costs[:last], accuracies[:last])[0]:
                break
            unmoved += done[last] not in entries.given
        return unmoved

    def _distances(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> Floats:
        """How far positions a (n, axes) are from b (m, axes): sums over the axes, each of length 1: (n, m)."""
        sums: Floats = (np.abs(a[:, None] - b[None]) / self.steps).sum(axis=2)
        return sums


def axis_positions(cells: Sequence[Cell], work: Sequence[Mapping[str, float]]) -> NDArray[np.int64]:
    """Where each cell is on each axis, from 0: (cells, axes).

    Numbers are ordered by size, names by the mean hours of their cells, each cell with all of its trainings.
    """
    columns = []
    for axis in cells[0]:
        values = values_of(axis, cells)
        if any(isinstance(value, str) for value in values):
            hours: dict[Scalar, list[float]] = {}
            for cell, needed in zip(cells, work, strict=True):
                hours.setdefault(cell[axis], []).append(_hours(needed))
            values.sort(key=lambda value: math.fsum(hours[value]) / len(hours[value]))
        columns.append([values.index(cell[axis]) for cell in cells])
    return np.array(columns).T


def _hours(needed: Mapping[str, float], paid: Iterable[str] = ()) -> float:
    return math.fsum(hours for id, hours in needed.items() if id not in paid)


def _check(cells: Sequence[Cell], work: Sequence[Mapping[str, float]], paid: set[str], budget: float) -> None:
    for number, cell in enumerate(cells):
        if set(cell) != set(cells[0]):
            raise ValueError(
                f"explore: cells must have the same axes, but cell 0 has {', '.join(sorted(cells[0]))}, and cell "
                f"{number} has {', '.join(sorted(cell))}; explore one grid at a time"
            )
    assert len(work) == len(cells) and all(hours > 0 for needed in work for hours in needed.values())
    cheapest = min(_hours(needed, paid) for needed in work)
    if not budget >= cheapest:
        raise ValueError(
            f"explore.budget_device_hours: {budget:g} is less than the cheapest cell takes, {cheapest:.4g} "
            "device-hours; give it that at least"
        )
