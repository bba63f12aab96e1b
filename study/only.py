"""Which part of a plan a launch runs: `stage=finetune architecture=r50*`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase

from study.plan import PlannedTrial
from study.schedule import predecessors

FIELDS: dict[str, Callable[[PlannedTrial], object]] = {
    "id": lambda trial: trial.id,
    "stage": lambda trial: trial.spec.stage,
    "architecture": lambda trial: trial.spec.architecture,
    "seed": lambda trial: trial.spec.seed,
    **{
        name: lambda trial, name=name: getattr(trial.spec.settings, name, None)  # type: ignore[misc]
        for name in ("label_fraction", "head_layer", "head_depth", "temperature")
    },
}

Only = tuple[tuple[str, str], ...]
"""Fields of a trial, and the pattern that each has to match."""


def parse_only(text: str) -> Only:
    """Parse `field=pattern` words; patterns are the shell's, numbers are compared by value.

    Raises:
        ValueError: a word of another form, or a field that trials do not have.
    """
    found = []
    for word in text.split():
        name, separator, pattern = word.partition("=")
        if not separator or not pattern:
            raise ValueError(f"--only {text!r}: expected field=pattern words such as stage=finetune, found {word!r}")
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(FIELDS)}"
            raise ValueError(f"--only {text!r}: trials have no field {name!r}; {hint}")
        found.append((name, pattern))
    if not found:
        raise ValueError("--only is empty: expected field=pattern words such as stage=finetune")
    return tuple(found)


def check_matches(only: Only, trials: Collection[PlannedTrial]) -> None:
    """Refuse what no trial matches.

    Raises:
        ValueError: the first word that matches none by itself with what there is, or all words together.
    """
    if any(matches(only, trial) for trial in trials):
        return
    text = " ".join(f"{name}={pattern}" for name, pattern in only)
    for name, pattern in only:
        values = [FIELDS[name](trial) for trial in trials]
        if not any(_matches(value, pattern) for value in values):
            known = list(dict.fromkeys(str(value) for value in values if value is not None))
            shown = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5) or known[:10] or ["none"]
            raise ValueError(f"--only {text!r}: no trial has {name}={pattern}; there are {', '.join(shown)}")
    raise ValueError(f"--only {text!r}: every word matches trials, but no trial matches all of them")


def matches(only: Only, trial: PlannedTrial) -> bool:
    """Whether a trial matches every pattern."""
    return all(_matches(FIELDS[name](trial), pattern) for name, pattern in only)


def with_what_they_need(only: Only, trials: Mapping[str, PlannedTrial], assumed: Collection[str] = ()) -> set[str]:
    """Ids of the trials that match, and of all that these wait for. Parents come first in `trials`.

    Parents of `assumed` trials are guesses: of them only what decides about them is needed for sure.
    """
    wanted: set[str] = set()
    for id, trial in reversed(list(trials.items())):
        if id in wanted or matches(only, trial):
            wanted |= {id, *(trial.after if id in assumed else predecessors(trial))}
    return wanted


def _matches(value: object, pattern: str) -> bool:
    if isinstance(value, int | float):
        try:
            return float(pattern) == float(value)
        except ValueError:
            return fnmatchcase(f"{value:g}", pattern)
    return value is not None and fnmatchcase(str(value), pattern)
