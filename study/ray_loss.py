"""A launch's own Ray that loses its control store or its raylet: the command begins anew, once.

Ray goes on without neither, and nor does a process that uses it: calls into Ray block for a minute, after which Ray
ends the process. So a thread puts the same command in the place of the program, in the same process; it goes on where
the storage says that it was, as any launch does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from reports.storage import Storage
from study.ending import SHOW_CURSOR, ending
from study.refusal import full_disk

ANEW_VARIABLE = "LABELSCALE_STARTED_ANEW"
"""Set in a command that has begun anew."""

NEEDED = {"gcs_server": "control store", "raylet": "raylet"}

LOOK_SECONDS = 0.1
SIGNAL_SECONDS = 0.2
"""Who ends a whole group of processes means the command too, which may learn of it a little later."""


@contextmanager
def begun_anew_if_lost(storage: Storage | None, environment: Mapping[str, str]) -> Iterator[None]:
    """A block that needs the Ray which this process has started, and does not come to its end without; `environment`
    is that in which the command was started."""
    watch = _Watch(storage, environment)
    try:
        yield
    finally:
        watch.stop()


class _Watch:
    def __init__(self, storage: Storage | None, environment: Mapping[str, str]) -> None:
        from ray._private import worker

        self._node: Any = worker._global_node
        self._storage, self._environment = storage, environment
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ray", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what was lost in the last moment counts too, for what the block has met by that is no error."""
        self._over.set()
        self._thread.join()
        if (lost := self._lost()) is not None:
            self._begin_anew(lost)

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if (lost := self._lost()) is not None:
                self._begin_anew(lost)

    def _lost(self) -> str | None:
        """What ended, and how."""
        for kind, name in NEEDED.items():
            for info in self._node.all_processes.get(kind, []):
                code = info.process.poll()
                if code is not None:
                    how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                    return f"Ray's {name} was lost ({how})"
        return None

    def _begin_anew(self, lost: str) -> None:
        """Put the command in the place of this program, if it has not been before; nothing if the command is ending."""
        time.sleep(SIGNAL_SECONDS)
        if ending.number is not None:
            return
        self._kill_ray()
        full = None if self._storage is None else full_disk(self._storage)
        why = lost if full is None else f"{lost}: {full}"
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        if ANEW_VARIABLE in self._environment or full is not None:
            again = "" if full is not None else ", again after Ray was started anew; launch again to go on"
            os.write(2, f"error: {why}{again}\n".encode())
            os._exit(1)
        os.write(1, f"{why}: starting Ray anew\n".encode())
        # What this process has set since, such as folders that go with it, is not for the next program.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**self._environment, ANEW_VARIABLE: "1"})

    def _kill_ray(self) -> None:
        """In no order, as there is nothing left that could be ended in order."""
        for infos in self._node.all_processes.values():
            for info in infos:
                with suppress(OSError):
                    os.kill(info.process.pid, signal.SIGKILL)
