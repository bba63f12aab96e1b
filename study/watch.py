"""A launch's watch over its trials: an error that would meet every other trial too ends the launch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError

from datasets.object_store import UnusableError
from reports.storage import Storage
from study.refusal import unusable


class Watch(tune.Callback):
    """Raises UnusableError, from Tune's own event loop, once a trial has met a storage or disk that refuses; tells by
    `say` of trials that have lost their process."""

    def __init__(self, storage: Storage, say: Callable[[str], object]) -> None:
        self._storage, self._say = storage, say
        self._refusal: UnusableError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to be able to restore them, which is never done here."""
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if isinstance(self._look(trial), (RayActorError, OutOfMemoryError)):
            self._say(f"{trial.config['job']['id']} has lost its process, and goes on from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._look(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _look(self, trial: Any) -> Exception | None:
        """What a trial has met. Tune has noted it on this machine, not yet where `trial.get_pickled_error` looks."""
        noted = trial.pickled_error_file
        if noted is None:
            return None
        error: Exception = cloudpickle.loads(Path(noted).read_bytes())
        self._refusal = self._refusal or unusable(error, self._storage)
        return error
