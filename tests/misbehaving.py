"""A function for a child process of `datasets.isolated` that ends in the ways in which a decoder may."""

from __future__ import annotations

import os
import signal

from datasets.isolated import MEMORY_BYTES


def misbehave(request: list[bytes]) -> list[bytes]:
    """Do what the first frame of a request says; without a known word, answer with all frames turned round."""
    match request[0]:
        case b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"sleep":
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            signal.pause()
        case b"memory":
            bytearray(MEMORY_BYTES + 2**28)
        case b"pid":
            return [str(os.getpid()).encode(), str(os.getppid()).encode()]
    return [frame[::-1] for frame in request]
