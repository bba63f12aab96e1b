"""The Ray that a command starts for itself: on the loopback address, behind a token, in a folder that only its user may
enter."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from study import watchdog
from study.watchdog import END_SECONDS, LOCK_NAME, remove

PREFIX = "labelscale-"

WATCHDOG = Path(watchdog.__file__)

SOCKET = "labelscale-12345678/ray/session_2026-11-29_19-05-56_969160_1234567/sockets/plasma_store"
"""A path below the folder's parent at which Ray listens."""

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Characters that the path of a Unix socket may have at most."""


@contextmanager
def private_ray() -> Iterator[Path]:
    """All that keeps others out of a Ray which is started within the block; yields a folder for its files and others.

    Its processes find a fresh token there. Whatever the user's environment says of tokens counts again afterwards.
    """
    with private_folder() as folder:
        wanted = guards(_write_token(folder))
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:  # torch makes one loose in the temporary directory
            wanted["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torchinductor")
        before = {name: os.environ.get(name) for name in wanted}
        _set(wanted)
        try:
            read_environment_again()
            yield folder
        finally:
            _set(before)
            read_environment_again()


@contextmanager
def private_folder() -> Iterator[Path]:
    """An empty folder of mode 700, removed at the end with the processes that still work in it.

    Another process sees to that, which outlives a `kill -9` of this one. Where both were killed, it is removed here,
    before the next folder is made.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        lock = undo.enter_context((folder / "new").open("wb"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / LOCK_NAME)  # so that nobody sees it unlocked
        process = _start_watchdog(folder)
        try:
            yield folder
        finally:
            lock.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2 * END_SECONDS)


def _start_watchdog(folder: Path) -> subprocess.Popen[bytes]:
    """A process that no terminal's signal reaches, and that ends for none but SIGKILL: it inherits what is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", WATCHDOG, folder],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=without_tokens(os.environ),
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def guards(token: Path) -> dict[str, str | None]:
    """Variables of the environment in which Ray's processes start; None for one that must not be there."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_AUTH_TOKEN": None,  # would count more than the file, and every child could read it
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so Ray calls a node that is found at the loopback address only
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def without_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that does not speak to Ray."""
    return {name: value for name, value in environment.items() if not name.startswith("RAY_AUTH_")}


def on_loopback() -> bool:
    """Whether the Ray that this process belongs to is one that no other machine reaches."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return ipaddress.ip_address(address).is_loopback


def _base() -> str:
    """Where the folder is made: where Ray would make its own, or in /tmp if that path is too long for sockets."""
    wanted = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return wanted if len(f"{wanted}/{SOCKET}") <= LONGEST_SOCKET else "/tmp"


def _write_token(folder: Path) -> Path:
    """A file of mode 600 with 256 random bits, as many as Ray's own tokens have."""
    path = folder / "token"
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(os.urandom(32).hex(), encoding="ascii")
    return path


def remove_abandoned() -> None:
    """Remove this user's folders whose process is gone, as it is after a `kill -9`: nobody holds their lock."""
    for folder in Path(_base()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK_NAME).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, being made, or just removed by another
            continue
        remove(folder)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def read_environment_again() -> None:
    """Have Ray in this process see the environment as it is now; by itself it reads it once."""
    from ray import _raylet
    from ray._private import ray_constants

    alone = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR) == "0"
    ray_constants.ENABLE_RAY_CLUSTER = not alone and not ray_constants.IS_WINDOWS_OR_OSX
    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
