"""A function called in a child process, for files that may end the process that reads them: the caller goes on.

`python -m datasets.isolated MODULE FUNCTION` is the template process. It imports the module once, which takes seconds
where it needs torch, and forks a child for every socket that it is sent. A child that ends is replaced within
milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

ROOT = Path(__file__).resolve().parents[1]
FRAME_SECONDS = 120.0
"""A part of an answer that takes longer ends the child: decoders have been seen to go round for ever."""

IDLE_SECONDS = 60.0
"""Processes that nobody calls end after so long, and give their memory back; the next call starts others."""

MEMORY_BYTES = 4 * 2**30
"""What a child may take beyond what it has when it starts: an image of `intact.MAX_PIXELS` takes up to 1.8 GB."""

END = 2**64 - 1  # in the place of a frame's length, after the last one
COUNT, LENGTH, STATUS = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<i")

Function = Callable[[list[bytes]], Iterable[bytes]]


class CrashError(Exception):
    """The child ended instead of answering; the message says how, as in 'ended by signal 11 (SIGSEGV)'."""


class Isolated:
    """Calls one function, named as MODULE and FUNCTION, in a child process; calls come one after another.

    The function takes a list of bytes and yields bytes. It must not raise: whatever it says goes into its answer.
    """

    def __init__(self, module: str, function: str) -> None:
        self._command = [sys.executable, "-m", "datasets.isolated", module, function]
        self._lock = threading.Lock()
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._stream: BinaryIO | None = None

    def start(self) -> None:
        """Start the processes, so that they import while the caller does something else."""
        with self._lock:
            self._connect()

    def call(self, request: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the function's answer. Raises CrashError when the child ended, after which the next call has another.

        Children that ended because nobody called are replaced unseen.
        """
        with self._lock:
            for attempt in (1, 2):
                stream, is_new = self._connect()
                try:
                    answer = self._answer(stream, request)
                    first = next(answer, None)
                    break
                except (OSError, EOFError):
                    message = self._disconnect()
                    if is_new or attempt == 2:
                        raise CrashError(message) from None
            try:
                if first is not None:
                    yield first
                    yield from answer
            except (OSError, EOFError):
                raise CrashError(self._disconnect()) from None
            except GeneratorExit:  # the rest of the answer would be taken for the next call's
                self._disconnect()
                raise

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._disconnect()
            self._stop()

    def _connect(self) -> tuple[BinaryIO, bool]:
        """Return the stream to the child, and whether it is a new one."""
        if self._stream is not None:
            return self._stream, False
        ours, theirs = socket.socketpair()
        with theirs:
            if self._template is not None:
                try:
                    self._send(theirs)
                except OSError:  # it ended while nobody called
                    self._stop()
            if self._template is None:
                self._begin()
                self._send(theirs)
        stream = _buffered(ours)
        ours.close()  # the stream keeps it open
        self._stream = stream
        return stream, True

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._template = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    def _send(self, child_end: socket.socket) -> None:
        assert self._control is not None
        socket.send_fds(self._control, [b"c"], [child_end.fileno()])

    def _answer(self, stream: BinaryIO, request: Sequence[bytes]) -> Iterator[bytes]:
        write_frames(stream, request)
        while (length := LENGTH.unpack(_read(stream, LENGTH.size))[0]) != END:
            yield _read(stream, length)

    def _disconnect(self) -> str:
        """Let go of the child and say how it ended."""
        if self._stream is None:
            return "it had ended"
        with contextlib.suppress(OSError):  # what it could not take any more
            self._stream.close()
        self._stream = None
        assert self._control is not None
        with contextlib.suppress(OSError):
            found = self._control.recv(STATUS.size, socket.MSG_WAITALL)
            if len(found) == STATUS.size:
                return _ending(STATUS.unpack(found)[0])
        self._stop()
        return f"{' '.join(self._command)} could not be started"

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # the template reads its end and leaves
        if self._template is not None:
            self._template.wait()
        self._control = self._template = None


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return f"took more than {FRAME_SECONDS:g} seconds"
        return f"ended by signal {number} ({signal.Signals(number).name})"
    code = os.waitstatus_to_exitcode(status)
    return f"needed more than {MEMORY_BYTES / 2**30:g} GiB of memory" if code == OUT_OF_MEMORY else f"ended with {code}"


OUT_OF_MEMORY = 37  # exit code of a child; any that nothing else uses


def write_frames(stream: BinaryIO, frames: Sequence[bytes]) -> None:
    """Write a request: the number of frames, their lengths, and the frames."""
    stream.write(COUNT.pack(len(frames)) + b"".join(LENGTH.pack(len(frame)) for frame in frames))
    for frame in frames:
        stream.write(frame)
    stream.flush()


def read_frames(stream: BinaryIO) -> list[bytes]:
    """Read what `write_frames` wrote; raises EOFError where the stream ends."""
    (count,) = COUNT.unpack(_read(stream, COUNT.size))
    lengths = struct.unpack(f"<{count}Q", _read(stream, LENGTH.size * count))
    return [_read(stream, length) for length in lengths]


def _buffered(connection: socket.socket) -> BinaryIO:
    return cast(BinaryIO, connection.makefile("rwb", buffering=2**16))


def _read(stream: BinaryIO, length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError
    return found


def run_template(control: socket.socket, function: Function) -> None:
    """Fork a child for every socket that arrives, and tell how each ended, until the caller closes its end."""
    while True:
        signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not descriptors:
            return
        child = os.fork()
        if child == 0:
            control.close()
            code = 1
            try:
                _run_child(socket.socket(fileno=descriptors[0]), function)
                code = 0
            except MemoryError:
                code = OUT_OF_MEMORY
            finally:
                os._exit(code)
        os.close(descriptors[0])
        _, status = os.waitpid(child, 0)
        try:
            control.sendall(STATUS.pack(status))
        except OSError:  # the caller has ended
            return


def _run_child(connection: socket.socket, function: Function) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print what they dislike
    _limit_memory()
    stream = _buffered(connection)
    while True:
        signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
        try:
            request = read_frames(stream)
        except EOFError:
            return
        for frame in _timed(function(request)):
            stream.write(LENGTH.pack(len(frame)))
            stream.write(frame)
        stream.write(LENGTH.pack(END))
        stream.flush()


def _timed(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Bound the time that making a frame takes, not the time in which the caller takes it."""
    iterator = iter(frames)
    while True:
        signal.setitimer(signal.ITIMER_REAL, FRAME_SECONDS)
        frame = next(iterator, None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if frame is None:
            return
        yield frame


def _limit_memory() -> None:
    """Bound the private memory of this process, where the system tells how much it has (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status")
    if status.exists():
        (used,) = (int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + MEMORY_BYTES,) * 2)


def main() -> None:
    """The template process: MODULE FUNCTION, with the caller's socket as standard input."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the caller, and with it this
    module, function = sys.argv[1:]
    control = socket.socket(fileno=os.dup(0))
    run_template(control, getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main()
