"""Checkpoints: tensors and plain values, written atomically to a folder that may be local or on an object store, with a
checksum in the file (`trainables.seal`)."""

from __future__ import annotations

import functools
import io
import logging
import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow.fs
import torch

from datasets.checksums import DamagedError
from datasets.filesystem import open_filesystem, write_whole
from datasets.object_store import UnusableError, patiently
from datasets.verified import READS
from trainables.old_names import in_present_names
from trainables.seal import check_seal, seal

State = dict[str, Any]

logger = logging.getLogger(__name__)


def save_state(uri: str, state: State) -> str:
    """Write tensors, numbers, strings, lists and dictionaries to `uri`; a reader sees the old file or the new one.

    Returns the SHA-256 of the file. An object store that does not answer is waited for (`OUTAGE_SECONDS`), then this
    raises OSError, as on a full disk.
    """
    return _write(uri, _serialized(state))


class BackgroundWriter:
    """Saves states while training goes on: a state is copied at once and written by a thread, one at a time.

    A state that could not be written leaves the one before it in place: it is passed over where another one follows,
    and raised as OSError by `wait`. Where the storage or disk refuses for good, the next `save` raises it too.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._running is not None and not self._running.done()

    def save(self, uri: str, state: State, written: Callable[[], object] = lambda: None) -> None:
        """Begin to write a state as `save_state` does, after the one before; at the end `written` is called."""
        content = _serialized(state)
        try:
            self.wait()
        except UnusableError:
            raise
        except OSError as error:
            logger.warning("a checkpoint could not be written, so that an older one counts until the next: %s", error)

        def write() -> None:
            _write(uri, content)
            written()

        self._running = self._pool.submit(write)

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _serialized(state: State) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer


def _write(uri: str, content: io.BytesIO) -> str:
    """Write a serialized state with its seal; returns the SHA-256 of the file."""
    sha256 = seal(content)
    filesystem, path = open_filesystem(uri)
    patiently(filesystem, lambda: write_whole(filesystem, path, content.getbuffer()), uri)
    return sha256


def load_state(uri: str, sha256: str | None = None) -> State | None:
    """Read what `save_state` wrote, on the CPU; None if there is no such file.

    `sha256`: of the file that is meant (None: any that is whole).

    Raises:
        DamagedError: the file is not as it was written, or another one; the message names it.
    """
    content = _read_verified(uri, sha256)
    if content is None:
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:  # a file of another program
        raise DamagedError(f"{uri} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise DamagedError(f"{uri} is not a readable checkpoint: it holds a {type(state).__name__}")
    if isinstance(state.get("module"), dict):
        state["module"] = in_present_names(state["module"])
    return state


def check_file(uri: str, sha256: str | None) -> bool:
    """Compare a file with the checksum in it, and with `sha256` if that is known; whether there is such a file.

    Raises:
        DamagedError: as `load_state`.
    """
    return _read_verified(uri, sha256) is not None


def _read_verified(uri: str, sha256: str | None) -> bytes | None:
    """Read a file, twice where it is damaged, since that may have happened on its way from an object store."""
    filesystem, path = open_filesystem(uri)

    def get() -> bytes | None:
        if filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return None
        with filesystem.open_input_file(path) as stream:
            content: bytes = stream.read()
        return content

    for attempt in range(READS):
        content = patiently(filesystem, get, uri)
        if content is None:
            return None
        try:
            found = check_seal(content)
        except DamagedError as error:
            if attempt == READS - 1:
                raise DamagedError(f"{uri} is damaged: {error}") from error
            continue
        if sha256 in (None, found):
            return content
    raise DamagedError(f"{uri} is another file than was meant: its SHA-256 is {found}, expected {sha256}")


def delete_states(folder: str, *prefixes: str) -> None:
    """Delete the files of a folder whose names begin in one of these ways."""
    filesystem, path = open_filesystem(folder)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    for info in patiently(filesystem, lambda: filesystem.get_file_info(selector), folder):
        if info.base_name.removeprefix(".").startswith(prefixes):  # hidden: a write that was cut off
            patiently(filesystem, functools.partial(filesystem.delete_file, info.path), folder)
