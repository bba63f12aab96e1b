"""What a stage knows of how it is executed: rank, device, where its checkpoints are, whom to report to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from datasets.checksums import DamagedError
from trainables.checkpoint import BackgroundWriter, State, delete_states, load_state, save_state
from trainables.course import Course
from trainables.networks.encoder import Encoder

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


def _ignore(share: float) -> None:
    """Report to nobody: a stage run in a test, a notebook or on one device without Ray."""


class PrunedError(RuntimeError):
    """A training was stopped because others of the same search are better by now; it is no failure."""


class InterruptedTrainingError(RuntimeError):
    """A training was ended by its user and goes on later from its checkpoint; it is no failure."""


def _log(warning: str) -> None:
    logger.warning("%s", warning)


def _never() -> bool:
    """Nobody takes this device away, or ends the training."""
    return False


def prepare_torch(per_worker: Mapping[str, float], *, tf32: bool) -> None:
    """Give this process the threads and the rounding of a worker with these Ray resources.

    `tf32` lets a GPU round the factors of float32 convolutions to 10 bits. Other products are not rounded: views,
    similarities and losses are products too.
    """
    torch.set_num_threads(max(1, int(per_worker.get("CPU", 1))))
    if "GPU" in per_worker:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"  # type: ignore[attr-defined]


@dataclass
class Context:
    """The execution of one trial on one worker; the default is one process without Ray.

    `folder` is the URI of the trial's checkpoint folder, whose last part is the trial's id. `channels_last` lays
    images and kernels out so that each pixel's channels lie together, which is faster on most hardware. A
    pretraining below `min_effective_rank` is stopped. `report` is called on every rank after every step, and while
    images are evaluated, with the share of the steps that are done, in [0, 1]; `warn` with why it begins anew,
    `note` with what else its user should know. `judge`, if there is one, is called on every rank with the number of
    steps done, the dev split's top-1 by then and the seconds of training so far, at `rungs` - 1 evenly spaced
    points; it ends a hopeless training by raising `PrunedError`.

    `checkpoint_seconds` is the interval of resumable checkpoints, which are written while training goes on; one that is
    still being written delays the next, and one that cannot be written is passed over, but for the last one. With 0
    there is one after every step, and training waits. `saved_step` is the number of steps in the latest one.

    When `notice` begins to tell that this worker will be taken away, there is a checkpoint at once. When `ending`
    begins to tell that the training is to end, there is one too, and rank 0 raises `InterruptedTrainingError`; the
    other ranks wait for it until they are ended.

    `node_type` names what this session is paid by, in the price table's words ("": nothing tells); checkpoints note it
    with the session's seconds. `model_sha256` is that of the model's file once it is written, on rank 0. `course` tells
    how the training goes.
    """

    folder: str
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channels_last: bool = True
    min_effective_rank: float = 1.5
    checkpoint_seconds: float = 120.0
    report: Callable[[float], None] = _ignore
    warn: Callable[[str], None] = _log
    note: Callable[[str], None] = _log
    notice: Callable[[], bool] = _never
    ending: Callable[[], bool] = _never
    rungs: int = 4
    judge: Callable[[int, float, float], None] | None = None
    node_type: str = ""
    model_sha256: str | None = None
    saved_step: int = 0
    course: Course = field(default_factory=Course)
    _noticed: bool = False
    _saved_at: float = field(default_factory=time.monotonic)
    _writer: BackgroundWriter = field(default_factory=BackgroundWriter)

    @property
    def trial(self) -> str:
        """The trial's id."""
        return self.folder.rstrip("/").rpartition("/")[2]

    def place(self, module: M, dtype: torch.dtype) -> M:
        """Move a module to this worker's device, type and memory layout; returns it."""
        for encoder in module.modules():
            if isinstance(encoder, Encoder):
                encoder.lay_out(torch.channels_last if self.channels_last else torch.contiguous_format)
        return module.to(self.device, dtype)

    def latest_checkpoint(self) -> State | None:
        """The state from which an interrupted trial continues; None at a trial's first start.

        A checkpoint that is damaged, or another trial's, is warned of and counts as none: it is replaced by the next.
        """
        uri, self.saved_step = f"{self.folder}/latest.pt", 0
        try:
            state = load_state(uri)
        except DamagedError as error:
            self.warn(f"{self.trial} begins anew, for its checkpoint cannot be used: {error}")
            return None
        if state is not None and state.get("trial", self.trial) != self.trial:
            self.warn(f"{self.trial} begins anew, for {uri} is a checkpoint of {state['trial']}")
            return None
        if state is not None:
            self.saved_step = state["progress"]["step"]
        return state

    def attend(self, share: float) -> None:
        """Report, and go no further if the training is to end. To be called where no step is half done."""
        self.report(share)
        if self.rank == 0 and self.ending():
            raise InterruptedTrainingError(f"{self.trial} was interrupted at {share:.0%} of its steps")

    def checkpoint_due(self) -> bool:
        """Whether this rank should save now: rank 0 at its interval, since all ranks hold the same state."""
        if self.rank != 0 or (self._writer.busy and self.checkpoint_seconds > 0):
            return False
        if not self._noticed and self.notice():
            self._noticed = True
            return True
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def save_checkpoint(self, state: State) -> None:
        """Begin to write the state; training goes on."""
        step: int = state["progress"]["step"]
        self._writer.save(
            f"{self.folder}/latest.pt", {**state, "trial": self.trial}, lambda: setattr(self, "saved_step", step)
        )
        self._saved_at = time.monotonic()

    def save_model(self, state: State) -> None:
        """Keep the trained model, from which children start; it and every checkpoint is written on return."""
        if self.rank == 0:
            self.model_sha256 = save_state(f"{self.folder}/model.pt", state)
        self.finish_writes()

    def finish_writes(self) -> None:
        """Wait until the last checkpoint is written. Raises OSError if it cannot be."""
        self._writer.wait()

    def delete_checkpoint(self) -> None:
        """Drop the latest checkpoint, which the trial's record makes useless, and leftovers of interrupted writes."""
        self.finish_writes()
        delete_states(self.folder, "latest.pt", ".latest.pt.", ".model.pt.")
