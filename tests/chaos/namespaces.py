"""A world of its own for each round: processes, network, temporary directory and shared memory.

What a round kills, stops or fills is in there, and all of it ends with the round's first process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


def command_inside(*arguments: str) -> list[str]:
    """The command that runs one of our modules in namespaces of its own, which end with the thread that starts it.

    Bash is the first process in there, since it reaps what others leave.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    inside = ["bash", "-c", 'ip link set lo up; "$@"; exit $?', "bash", sys.executable, "-m", *arguments]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *user, *kinds, *inside]


def environment_inside() -> dict[str, str]:
    return {**os.environ, "LABELSCALE_NAMESPACES": "private", "PYTHONPATH": f"{TESTS}:{ROOT}"}


def enter(folder: Path) -> None:
    """Give the round that runs in here its own temporary directory, in `folder`, and its own shared memory.

    Raises SystemExit outside of namespaces of its own: a round kills whatever it sees.
    """
    if os.environ.get("LABELSCALE_NAMESPACES") != "private" or len(others()) > 0:
        sys.exit("a round runs in namespaces of its own: start it by `make chaos`")
    if folder.is_relative_to("/tmp"):
        sys.exit(f"{folder} lies in the temporary directory, which every round replaces: name another folder")
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    mount("--bind", str(temporary), "/tmp")
    mount("-t", "tmpfs", "tmpfs", "/dev/shm")
    os.environ.pop("TMPDIR", None)


def mount(*arguments: str) -> None:
    """Mount in this round's namespace. Raises subprocess.CalledProcessError."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


def others() -> list[psutil.Process]:
    """All living processes of this namespace but this one and those above it."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents()), 1}
    return [process for process in psutil.process_iter() if process.pid not in mine and _lives(process)]


def listening() -> list[str]:
    """Addresses at which another process than this one listens."""
    found = [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return [f"{one.laddr.ip}:{one.laddr.port}" for one in found if one.pid != os.getpid()]


def told(process: psutil.Process) -> str:
    """A process in words."""
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:80] or process.name()}"
    except psutil.Error:
        return str(process.pid)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
