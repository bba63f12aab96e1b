"""A launch's watch over its trials: an error that would meet every other trial too ends the launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle, tune

from datasets.object_store import UnusableError
from reports.storage import Storage
from study.refusal import unusable


class Watch(tune.Callback):
    """Raises UnusableError, from Tune's own event loop, once a trial has met a storage or disk that refuses."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._refusal: UnusableError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to be able to restore them, which is never done here."""
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._look(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._look(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _look(self, trial: Any) -> None:
        """Tune has noted the error on this machine, and not yet where `trial.get_pickled_error` looks for it."""
        noted = trial.pickled_error_file
        if noted is not None and self._refusal is None:
            self._refusal = unusable(cloudpickle.loads(Path(noted).read_bytes()), self._storage)
