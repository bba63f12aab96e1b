"""A launch that is told to end while trials run: they make a checkpoint, and it says how far each of them is."""

from __future__ import annotations

import time
from collections.abc import Callable

from reports.progress import Progress
from study.ending import ending
from study.running import Follower

SAVING_SECONDS = 7.0
"""Seconds to wait for checkpoints. A trial whose step or write takes longer goes on from an older checkpoint."""

NOTICING_SECONDS = 1.0
"""Seconds that workers may take to see that they are to end, or to say that they have begun."""

LOOK_SECONDS = 0.3
LISTED = 5


class InterruptedLaunch(KeyboardInterrupt):
    """A launch was told to end, and its trials have."""


class Stopping:
    """Ends the trials of a launch, once the process is told to end; `launch` is its `launched_at`."""

    def __init__(self, launch: str, running: Callable[[], list[str]], follower: Follower) -> None:
        self._launch, self._running, self._follower = launch, running, follower
        self._asked_at: float | None = None

    def look(self) -> None:
        """To be called again and again, from the main thread.

        Raises:
            InterruptedLaunch: the launch is to end, and its trials have or their time is up.
        """
        if ending.number is None:
            return
        if self._asked_at is None:
            from study.interruption import end_trainings

            end_trainings(self._launch)
            self._asked_at = time.monotonic()
            self._follower.hurry(LOOK_SECONDS)
        waited = time.monotonic() - self._asked_at
        trained = self._trained()
        if waited > SAVING_SECONDS or (waited > NOTICING_SECONDS and all(one.ended for one in trained)):
            ending.line = what_is_saved(trained)
            raise InterruptedLaunch

    def _trained(self) -> list[Progress]:
        known = self._follower.known
        found = (known.get(id) for id in self._running())
        return [one for one in found if one is not None and one.launch == self._launch]


def what_is_saved(trained: list[Progress]) -> str:
    """The line with which a launch ends, of the trials that it was training."""
    parts = []
    for word, some in (
        ("saved", [one for one in trained if one.ended]),
        ("ended without a checkpoint of their last steps", [one for one in trained if not one.ended]),
    ):
        if some:
            shares = [f"{one.saved * 100:.0f} %" for one in sorted(some, key=lambda one: -one.saved)]
            listed = ", ".join(shares[:LISTED]) + (", ..." if len(some) > LISTED else "")
            parts.append(f"{len(some)} trial{'s' if len(some) > 1 else ''} {word} at {listed}")
    return f"interrupted: {'; '.join(parts) or 'nothing was training'}; launch again to go on"
