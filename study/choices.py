"""What is to be chosen before a trial is known: among which settings, measured by which trials, and the decision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

from study.adaptive import Range, Scalar, Search
from study.cells import Cell
from study.config import Study
from study.trial import TrialSpec, canonical_json
from trainables.spec import Stage


@dataclass(frozen=True)
class Option:
    """Settings that may be chosen: what they change of a cell, and the trials on held-out images that measure them.

    `needs` are the trials on which these build; `rests_on` the choices that were made before this could be one.
    """

    changes: Cell
    trials: tuple[str, ...]
    needs: tuple[str, ...] = ()
    rests_on: tuple[Decision, ...] = ()


@dataclass(eq=False)
class Choice:
    """A choice of one cell at one stage, open until its trials are finished.

    `options` are listed by the study or, for a `search`, sampled from `space` (axis or setting -> range) as it goes,
    which makes the list grow; `stage` and `cell` are what the options change. `base` measures the study's own settings:
    a search's options take as long as these.
    """

    id: str
    stage: Stage
    cell: Cell
    options: list[Option]
    search: Search | None = None
    space: Mapping[str, Range] = field(default_factory=dict)
    base: tuple[TrialSpec, ...] = ()


@dataclass(frozen=True)
class Score:
    """What is known of an option: the mean top-1 over its held-out images, None if it failed or was pruned."""

    option: Option
    dev_top1: float | None


@dataclass(frozen=True)
class Decision:
    """A choice that was made: the option with the highest score, the first of equal ones."""

    choice: Choice
    chosen: Option
    scores: tuple[Score, ...]
    assumed: bool = False  # nothing is decided yet; a cost is estimated as if this were chosen

    def plain(self) -> dict[str, Any]:
        """The decision as JSON types, as the records of trials that rest on it have it."""
        return {
            "choice": self.choice.id,
            "stage": self.choice.stage,
            "by": "dev_top1",
            "chosen": self.chosen.changes,
            "among": [
                {"changes": score.option.changes, "dev_top1": score.dev_top1, "trials": list(score.option.trials)}
                for score in self.scores
            ],
        }


class Evidence(Protocol):
    """What is known of choices so far."""

    def sampled(self, choice: Choice) -> list[tuple[Cell, bool]]:
        """The changes that a search has sampled, in order, and whether their trials are to be run to the end."""

    def decide(self, choice: Choice) -> Decision | None:
        """The decision, None while it is open."""

    def picked(self, study: Study, labelled: Callable[[float], int]) -> list[int]:
        """Which cells of a study's grid an exploration has picked, in order."""

    def exploring(self, study: Study, labelled: Callable[[float], int]) -> bool:
        """Whether a study has an exploration that may go on."""


class NoEvidence:
    """Nothing has run: every choice is open."""

    def sampled(self, choice: Choice) -> list[tuple[Cell, bool]]:
        return []

    def decide(self, choice: Choice) -> Decision | None:
        return None

    def picked(self, study: Study, labelled: Callable[[float], int]) -> list[int]:
        return []

    def exploring(self, study: Study, labelled: Callable[[float], int]) -> bool:
        return study.explore is not None


class Assumed:
    """Evidence for estimates: what is open is decided as if the first option were the best; what is known counts."""

    def __init__(self, known: Evidence) -> None:
        self.known = known

    def sampled(self, choice: Choice) -> list[tuple[Cell, bool]]:
        return self.known.sampled(choice)

    def picked(self, study: Study, labelled: Callable[[float], int]) -> list[int]:
        return self.known.picked(study, labelled)

    def exploring(self, study: Study, labelled: Callable[[float], int]) -> bool:
        return self.known.exploring(study, labelled)

    def decide(self, choice: Choice) -> Decision:
        decision = self.known.decide(choice)
        if decision is not None:
            return decision
        own = {axis: found.ends[0] for axis, found in choice.space.items() if axis in choice.cell}
        first = Option(own, ()) if choice.search is not None else choice.options[0]
        return Decision(choice, first, (), assumed=True)


def choice_id(stage: Stage, cell: Cell, what: Mapping[str, Any]) -> str:
    """Readable slug and eight hexadecimal digits of the SHA-256 of `what` determines the choice."""
    words = ["choose", stage, str(cell["architecture"])]
    match stage:
        case "pretrain":
            pass
        case "linear" | "finetune" | "supervised" | "distill":
            words.append(f"{float(cell['label_fraction']) * 100:g}pct")
        case _:
            assert_never(stage)
    digest = hashlib.sha256(canonical_json(what).encode()).hexdigest()
    return "-".join([*words, f"s{cell['seed']}", digest[:8]])


def described(changes: Mapping[str, Scalar]) -> str:
    """Changes as text: `head_layer 2, finetune.optimization.learning_rate 0.03`."""
    return ", ".join(
        f"{axis} {value:.3g}" if isinstance(value, float) else f"{axis} {value}" for axis, value in changes.items()
    )
