"""Ctrl-C and SIGTERM: a command ends in order within ten seconds, and at once when it is asked again.

Python runs a signal's handler in the main thread, when that comes back from what it waits for. A second thread, which
the system tells at once, sees to the time: it ends the process when the main thread does not.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAKING = signal.SIGUSR2  # from a thread of our own; Ray Tune takes the other one

END_SECONDS = 9.5
"""Seconds from the first signal until a command is ended by force."""

SAME_SECONDS = 0.5
"""Signals so close together are one: `timeout` and others send theirs to the process and to its whole group."""

SHOW_CURSOR = b"\x1b[?25h"  # a live table hides it


class Ending:
    """What was asked of this process; `line` is what it says at its end, when no more is known than that."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.line = "interrupted"
        self._gently = self._handled = self._taken = False

    @property
    def code(self) -> int:
        """The exit code of a process that ends by its signal, as a shell says it."""
        return 128 + (signal.SIGINT if self.number is None else self.number)

    def take(self) -> None:
        """Handle the signals, all but those that this process was started to ignore."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._asked)
        signal.signal(WAKING, _interrupt)
        if self._taken:
            return
        self._taken = True
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        sys.unraisablehook = _again

    def take_back(self) -> None:
        """Handle again what a library has taken, if this process handles signals."""
        if self._taken:
            self.take()

    @contextmanager
    def gently(self) -> Iterator[None]:
        """A block that looks at `number` itself, and is interrupted only if it is not at its end in time."""
        if self._handled:
            raise KeyboardInterrupt
        self._gently = True
        try:
            yield
        finally:
            self._gently = False

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main thread once; what follows is the other thread's."""
        first, self._handled = not self._handled, True
        self.number = self.number or number
        if first and not self._gently:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Wait for a signal, then for another one or the time to be up."""
        self.number, asked_at = self.number or self._next(None), time.monotonic()
        while (left := asked_at + END_SECONDS - time.monotonic()) > 0:
            if self._next(left) is not None and time.monotonic() - asked_at > SAME_SECONDS:
                break
        self.leave()

    def _next(self, seconds: float | None) -> int | None:
        """The next of `SIGNALS`; None if the time is up before."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._read], [], [], left)[0]:
                return None
            if (number := self._read.recv(1)[0]) in SIGNALS:
                return number

    def leave(self) -> None:
        """End this process now, whatever it does: without the end of its blocks, threads and libraries."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + f"{self.line}\n".encode())
        os._exit(self.code)


ending = Ending()
"""Signals are of a process, and so is this."""


def interrupt_main() -> None:
    """Interrupt the main thread from another one, also where it waits for Ray, which only a real signal ends."""
    main = threading.main_thread().ident
    assert main is not None
    taken = signal.getsignal(WAKING) is _interrupt
    signal.pthread_kill(main, WAKING if taken else signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _again(unraisable: Any) -> None:
    """An interruption that came where nothing can be raised, such as in a destructor, comes again."""
    if unraisable.exc_type is KeyboardInterrupt:
        interrupt_main()
    else:
        sys.__unraisablehook__(unraisable)
