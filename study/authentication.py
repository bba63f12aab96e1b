"""The token of a cluster that is given by its address: Ray uses the user's own only where it finds a cluster itself."""

from __future__ import annotations

import os
from typing import Any

from study.private_ray import read_environment_again

HARMLESS = "/ray.rpc.InternalKVGcsService/InternalKVKeys"
"""A question to a cluster's control store that changes nothing."""

SECONDS = 10.0

EXPECTED = "the one with which it was started, in ~/.ray/auth_token, or in a file that RAY_AUTH_TOKEN_PATH names"


def use_own_token(address: str) -> None:
    """Have Ray use the user's token for the cluster at HOST:PORT, if it asks for one.

    Raises:
        ValueError: there is no token, or it is another cluster's. Ray itself would try for twenty seconds and say that
            nobody answers.
    """
    if _status(address, None) != "UNAUTHENTICATED":
        return
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise ValueError(
            f"--address {address}: the cluster asks for a token, and RAY_AUTH_MODE={mode} is set; unset it"
        )
    read_environment_again()
    token = _own_token()
    if token is None:
        raise ValueError(f"--address {address}: the cluster asks for a token, and there is none; expected {EXPECTED}")
    if _status(address, token) == "UNAUTHENTICATED":
        raise ValueError(f"--address {address}: the cluster refuses this user's token; expected {EXPECTED}")


def asks_for_token(address: str) -> bool:
    """Whether the cluster at HOST:PORT refuses who has no token; one that does not answer, or by TLS only, may."""
    return _status(address, None) != "OK"


def _own_token() -> str | None:
    from ray import _raylet

    native: Any = _raylet
    loader = native.AuthenticationTokenLoader.instance()
    return str(loader.get_raw_token(ignore_auth_mode=True)) if loader.has_token(ignore_auth_mode=True) else None


def _status(address: str, token: str | None) -> str:
    """The name of gRPC's status for a harmless question."""
    import grpc  # type: ignore[import-untyped]

    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(HARMLESS)(b"", timeout=SECONDS, metadata=headers)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"
