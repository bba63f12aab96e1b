"""What a launch adds to its plan as results come in: chosen trials and their children, and what searches sample."""

from __future__ import annotations

import math
from collections.abc import Callable

from study.adaptive import RUNGS, Search
from study.choices import Choice, Option
from study.config import Study
from study.evidence import StoredEvidence
from study.exploration import Exploration, advance, open_exploration
from study.grid import expand
from study.plan import Images, Plan, PlannedTrial, Planner, plan_of
from study.schedule import TrialState


class Growth:
    """The plan of a study that grows; `plan` is what is known at its start, the first samples of searches included.

    The truth is in storage: records, and Optuna's journal of what searches have sampled. So a launch that was
    interrupted goes on where it stopped. `seconds` predicts device-seconds, without which nothing can be explored.
    """

    def __init__(
        self,
        study: Study,
        images: Images,
        evidence: StoredEvidence,
        seconds: Callable[[PlannedTrial], float] = lambda trial: math.nan,
    ) -> None:
        self.evidence = evidence
        self.expansion = expand(study, evidence, images.labelled)
        self.planner = Planner(study, images)
        self.open: dict[str, Choice] = {}
        self.seen = 0  # of the expansion's choices
        self.of_trial: dict[str, list[tuple[Choice, int]]] = {}  # the options that a trial measures
        self.over: set[str] = set()  # trials that ended without a record, or were skipped
        self.exploration: Exploration | None = None
        if study.explore is not None:
            self.exploration = open_exploration(study, images, evidence, seconds, dry=False)
        self._explore()
        self._grow(self._opened())
        self.plan = self.known()

    def known(self) -> Plan:
        """The plan as far as it is known by now."""
        return plan_of(self.expansion, self.planner, self.evidence.done)

    def after(self, changed: list[tuple[str, TrialState]]) -> list[PlannedTrial]:
        """The trials that are known only after some have ended or were skipped."""
        touched: dict[str, Choice] = {}
        for id, state in changed:
            if state in ("done", "pruned", "failed"):
                self.evidence.note_end(id, state)
            touched |= {choice.id: choice for choice, _ in self.of_trial.get(id, []) if choice.id in self.open}
        self.over |= {id for id, state in changed if state != "done"}
        known = len(self.planner.trials)
        self._explore()
        self._grow(list(touched.values()))
        return list(self.planner.trials.values())[known:]

    def prune(self, id: str, rung: int, dev_top1: float) -> bool:
        """Note a running trial's accuracy at one of its points (from 1); returns whether it is to stop there."""
        found = [(choice, number) for choice, number in self.of_trial.get(id, []) if _prunes(choice.search)]
        verdicts = [
            self.evidence.searches.report(choice, number, _point(choice.options[number], id, rung), dev_top1)
            for choice, number in found
        ]
        return bool(verdicts) and all(verdicts)

    def rungs(self, id: str) -> int:
        """At how many points a trial is judged; 0: it is not."""
        return RUNGS if any(_prunes(choice.search) for choice, _ in self.of_trial.get(id, [])) else 0

    def _explore(self) -> None:
        """Let an exploration pick cells in the place of those that have ended."""
        if self.exploration is not None:
            for number in advance(self.exploration, self.evidence, self.over):
                picked = self.exploration.cells[number]
                self.expansion.add_explored(picked.stages, picked.cell)

    def _grow(self, choices: list[Choice]) -> None:
        """Advance choices, decide those that can be, and go on with what these open."""
        while choices:
            for choice in choices:
                if choice.search is not None:
                    self._advance(choice)
                if self.evidence.decide(choice) is not None:
                    del self.open[choice.id]
                    self.expansion.decided(choice)
            choices = self._opened()
        self._plan_new()

    def _opened(self) -> list[Choice]:
        """Choices that the expansion has met since the last time and that are open."""
        new = list(self.expansion.choices.values())[self.seen :]
        self.seen += len(new)
        new = [choice for choice in new if self.evidence.decide(choice) is None]
        for choice in new:
            self.open[choice.id] = choice
            for number in range(len(choice.options)):
                self._note(choice, number)
        return new

    def _advance(self, choice: Choice) -> None:
        """Tell a search what became of its samples, and sample more as its budget allows."""
        assert choice.search is not None
        searches = self.evidence.searches
        running = 0
        for number, (_, state) in enumerate(searches.samples(choice)):
            if state == "running":
                running += not self._tell(choice, number)
        while running < choice.search.parallel and not self.evidence.budget_spent(choice):
            number = searches.ask(choice)
            self.expansion.add_option(choice, searches.samples(choice)[number][0])
            self._note(choice, number)
            running += not self._tell(choice, number)  # the same settings may have been sampled before

    def _tell(self, choice: Choice, number: int) -> bool:
        """Tell a search about a sample whose trials have ended; returns whether they have."""
        option, searches = choice.options[number], self.evidence.searches
        if any(id in self.evidence.failed for id in option.trials):
            pruned = any(self.evidence.is_pruned(id) for id in option.trials)
            searches.tell(choice, number, None, "pruned" if pruned else "failed")
            return True
        score = self.evidence.score(option)
        if score is not None:
            searches.tell(choice, number, score, "complete")
        return score is not None

    def _note(self, choice: Choice, number: int) -> None:
        for id in choice.options[number].trials:
            self.of_trial.setdefault(id, []).append((choice, number))

    def _plan_new(self) -> None:
        """Cost the trials that are new; where a search prunes, an option's folds come one after the other."""
        for id, spec in self.expansion.specs.items():
            if id in self.planner.trials:
                continue
            before: tuple[str, ...] = ()
            for choice, number in self.of_trial.get(id, []):
                if _prunes(choice.search):
                    folds = choice.options[number].trials
                    before = folds[folds.index(id) - 1 : folds.index(id)] if folds[0] != id else ()
            self.planner.add(id, spec, before)


def _prunes(search: Search | None) -> bool:
    return search is not None and search.pruner != "none"


def _point(option: Option, id: str, rung: int) -> int:
    """The number of a point of a training among those of all of an option's folds, from 1."""
    return option.trials.index(id) * RUNGS + rung
