"""What is promised whatever happens to a launch, and how often each promise was tried and held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PROMISES = {
    "records": "every record equals the undisturbed study's",
    "weights": "every weight equals the undisturbed study's, bit for bit",
    "kept": "a record that was there before an attack is there afterwards, unchanged",
    "ends": "a launch ends by itself",
    "exit code": "the exit code is the stated one",
    "traceback": "no traceback and no stack addresses on the screen",
    "reason": "a launch that leaves trials without a record says why, of every one",
    "length": "no message is longer than 2,000 characters",
    "remains": "20 s after a launch ended, none of its processes and sockets is left",
    "folders": "after the last launch, nothing of any launch is left in the temporary directory",
    "again": "a relaunch trains again within 20 s of its command, or within 10 s more than an undisturbed launch needs",
    "interrupted": "Ctrl-C and SIGTERM end a launch within 10 s, and it says that it was interrupted",
    "status": "no trial of a launch that has ended is said to be running",
    "disk": "a disk that is full or read-only is named as the reason, within 5 s of the first failed write",
    "store": "a deleted bucket or a permanent refusal ends a launch within a minute, with the bucket's name",
    "one driver": "of two launches on one storage one runs, and the other says who holds it",
    "page": "the page of a report is whole at any moment",
}
"""By the short names that the table prints."""


@dataclass
class Findings:
    """What one round found: how often each promise was tried and held, what was done, and what did not hold.

    `attacks` counts what was done to launches, by words such as "SIGKILL of the driver". `seconds` are measured times
    by what they are of.
    """

    tried: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def check(self, promise: str, holds: bool, otherwise: str, count: int = 1) -> bool:
        """Note that a promise was tried `count` times at once, and whether it held; `otherwise` says what was found."""
        assert promise in PROMISES, promise
        self.tried[promise] += count
        if holds:
            self.held[promise] += count
        else:
            self.broken.append(f"{promise}: {otherwise}")
        return holds

    def measure(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)

    def add(self, other: Findings) -> None:
        """Add what another round found."""
        self.tried += other.tried
        self.held += other.held
        self.attacks += other.attacks
        self.broken += other.broken
        for what, values in other.seconds.items():
            self.seconds.setdefault(what, []).extend(values)

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("tried", "held", "attacks", "broken", "seconds")}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Findings:
        counts = {name: Counter(plain[name]) for name in ("tried", "held", "attacks")}
        return cls(**counts, broken=list(plain["broken"]), seconds=dict(plain["seconds"]))


def table(findings: Findings) -> list[str]:
    """Lines with every promise, how often it was tried, and how often it held; then what was done, and times."""
    width = max(len(text) for text in PROMISES.values())
    lines = [f"{'promise':<{width}}  {'tried':>7}  {'held':>7}"]
    for name, text in PROMISES.items():
        tried, held = findings.tried[name], findings.held[name]
        lines.append(f"{text:<{width}}  {tried:>7,}  {held:>7,}" + ("" if tried == held else "  NOT HELD"))
    lines += ["", f"{'attack':<{width}}  {'times':>7}"]
    lines += [f"{what:<{width}}  {count:>7,}" for what, count in sorted(findings.attacks.items())]
    if findings.seconds:
        lines += ["", f"{'seconds':<{width}}  {'median':>7}  {'longest':>7}"]
    for what, values in sorted(findings.seconds.items()):
        lines.append(f"{what:<{width}}  {_median(values):>7.1f}  {max(values):>7.1f}")
    return lines


def all_held(findings: Findings) -> bool:
    return not findings.broken and findings.tried == findings.held


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
