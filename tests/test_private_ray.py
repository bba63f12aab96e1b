"""A Ray that a command starts for itself: nobody else reaches it, and nothing of it stays."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest

from study.cluster import ray_cluster
from study.private_ray import PREFIX, private_folder, private_ray

pytestmark = pytest.mark.timeout(240)

USERS_OWN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "f0" * 32, "GLOO_SOCKET_IFNAME": "eth0"}
"""What a user has in the environment for another cluster."""

LIST_KEYS = "/ray.rpc.InternalKVGcsService/InternalKVKeys"


@dataclass(frozen=True)
class Seen:
    """A Ray as it was while it ran: the addresses that its processes listen at, their command lines and environments,
    where its files were, the token, and how its control store answered with it and without."""

    listening: list[tuple[str, int]]
    told: str
    folder: Path
    token: str
    modes: dict[str, int]
    logged: str
    answers: dict[str, str]


def processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    found = process.net_connections(kind="tcp")
    return [(socket.laddr.ip, socket.laddr.port) for socket in found if socket.status == psutil.CONN_LISTEN]


def ask(address: str, token: str | None) -> str:
    """The name of gRPC's status for a question to the control store."""
    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(LIST_KEYS)(b"", timeout=10, metadata=headers)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    import ray

    with pytest.MonkeyPatch.context() as environment, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray Data's own settings, while it reads them
        for name, value in USERS_OWN.items():
            environment.setenv(name, value)
        with ray_cluster(None):
            address = ray.get_runtime_context().gcs_address
            path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            token = path.read_text()
            processes_now = processes()
            told = [" ".join([*process.cmdline(), *process.environ().values()]) for process in processes_now]
            answers = {str(name): ask(address, name) for name in (None, "0" * 64, USERS_OWN["RAY_AUTH_TOKEN"])}
            found = Seen(
                listening=[pair for process in processes_now for pair in listening(process)],
                told="\n".join([*told, *map(str, os.environ.items())]),
                folder=path.parent,
                token=token,
                modes={name.name: stat.S_IMODE(name.stat().st_mode) for name in (path, path.parent)},
                logged=subprocess.run(["grep", "-rl", token, path.parent], capture_output=True, text=True).stdout,
                answers={**answers, "the token": ask(address, token)},
            )
        assert {name: os.environ.get(name) for name in USERS_OWN} == USERS_OWN
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
        yield found


def test_all_processes_listen_on_the_loopback_address_only(seen: Seen) -> None:
    assert len(seen.listening) >= 5
    assert {ip.removeprefix("::ffff:") for ip, _ in seen.listening} == {"127.0.0.1"}


def test_the_control_store_answers_nobody_without_the_token(seen: Seen) -> None:
    refused = "UNAUTHENTICATED"
    assert seen.answers == {"None": refused, "0" * 64: refused, "f0" * 32: refused, "the token": "OK"}


def test_the_token_is_in_one_file_and_nowhere_else(seen: Seen) -> None:
    assert len(seen.token) == 64 and seen.modes == {"token": 0o600, seen.folder.name: 0o700}
    assert seen.token not in seen.told
    assert seen.logged.split() == [str(seen.folder / "token")]


def test_nothing_stays_in_the_temporary_folder(seen: Seen) -> None:
    assert not seen.folder.exists()


def test_each_ray_has_another_token_and_the_users_environment_counts_again() -> None:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    tokens = []
    for _ in range(2):
        with private_ray() as folder:
            assert is_token_auth_enabled()
            tokens.append((folder / "token").read_text())
    assert tokens[0] != tokens[1]


def test_folder_of_a_killed_process_is_removed_and_one_in_use_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.private_ray._base", lambda: str(tmp_path))
    abandoned, used = (tmp_path / f"{PREFIX}{name}" for name in ("abandoned", "used"))
    for folder in (abandoned, used):
        folder.mkdir()
        (folder / "held").touch()
    with (used / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with private_folder() as folder:
            assert folder.is_dir() and used.is_dir() and not abandoned.exists()
    with private_folder():
        assert not used.exists()
