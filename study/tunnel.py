"""The dashboard of a cluster's head node, which listens on the head's loopback address only."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

OPEN_SECONDS = 120.0
"""Seconds that opening a tunnel may take: the cloud is asked where the head is, and SSH may go through a slow proxy."""

ANSWER_SECONDS = 10.0
"""A dashboard that does not answer within that is asked again, or given up."""


@contextmanager
def dashboard(cluster: str) -> Iterator[str]:
    """URL of a cluster's dashboard for the time of a block; jobs are submitted and followed there.

    `cluster` is a cluster's YAML file, as given to `ray up`, or such a URL, as `kubectl port-forward` opens.

    Raises:
        ValueError: there is no such file, or no head that can be reached.
    """
    if cluster.startswith(("http://", "https://")):
        if not _answers(cluster):  # the jobs' client would wait for ever for a forwarded port that leads nowhere
            raise ValueError(f"--cluster {cluster}: nobody answers there; expected the URL of a cluster's dashboard")
        yield cluster.rstrip("/")
        return
    if not Path(cluster).is_file():
        raise ValueError(
            f"--cluster {cluster}: there is no such file; expected the YAML file that was given to `ray up`, or the "
            "URL of a dashboard"
        )
    port = _free_port()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", cluster, "--port", str(port)]
        # A session of its own: Ctrl-C is for the launch, which then ends the tunnel and SSH below it.
        tunnel = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_open(url, tunnel, cluster, said)
            yield url
        finally:
            _end(tunnel)


def _wait_until_open(url: str, tunnel: subprocess.Popen[bytes], cluster: str, said: IO[bytes]) -> None:
    deadline = time.monotonic() + OPEN_SECONDS
    while not _answers(url):
        if tunnel.poll() is not None or time.monotonic() > deadline:
            said.seek(0)
            tail = said.read().decode(errors="replace").strip()[-2000:]
            raise ValueError(
                f"--cluster {cluster}: its head cannot be reached; is it up (`ray up {cluster}`)? "
                f"`ray dashboard {cluster}` said:\n{tail}"
            )
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:  # it wants a token, say
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)  # the jobs' client has certificates of its own
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _end(tunnel: subprocess.Popen[bytes]) -> None:
    """End the tunnel and SSH, which is its child and would stay."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(tunnel.pid, number)
            tunnel.wait(5)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    tunnel.wait()
