"""A live report on this machine's loopback address: built when asked for, and again when there are new results."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn

from reports.message import complain

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")  # what a browser on this machine calls it
METHODS = ("GET", "HEAD")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"

LAST_SECONDS = 1
"""Seconds that answers may take to arrive which are being sent when serving ends."""

PIECE = 2**18
"""Bytes of the pieces in which a page is handed over, so that slow readers do not keep a copy each."""

CONNECTIONS = 65_536
"""Files that may be open at once, where the system allows it."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class LivePage:
    """The page, built again only when `state` (what it is built from, cheap to ask for) is another than last time.

    Of any number of readers at once, those who come while the page is looked up or built share the next look-up.
    """

    def __init__(self, state: Callable[[], Hashable], build: Callable[[], str]) -> None:
        self.state, self.build = state, build
        self.built: tuple[Hashable, bytes] | None = None
        self.said = ""  # why it could not be built, which is told once
        self._now: asyncio.Task[bytes | None] | None = None
        self._next: asyncio.Task[bytes | None] | None = None

    async def content(self) -> bytes | None:
        """The page as it is now; None where it cannot be built now."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[bytes | None] | None) -> bytes | None:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._next = self._next, None
        return await in_thread(self._built)

    def _built(self) -> bytes | None:
        try:
            state = self.state()
            if self.built is None or self.built[0] != state:
                self.built = state, self.build().encode()
            self.said = ""
            return self.built[1]
        except Exception as error:  # whatever it is, the next reader may be luckier: a storage may answer again
            reason = str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
            if reason != self.said:
                complain(f"cannot build the report: {reason}")
            self.said = reason
            return None


def in_thread(function: Callable[[], bytes | None]) -> asyncio.Future[bytes | None]:
    """What a function returns that never raises, run in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes | None] = loop.create_future()

    def finish(found: bytes | None) -> None:
        if not future.done():
            future.set_result(found)

    def run() -> None:
        found = function()
        with suppress(RuntimeError):  # nobody serves any more
            loop.call_soon_threadsafe(finish, found)

    threading.Thread(target=run, name="page", daemon=True).start()
    return future


class Server:
    """A server of this one page on 127.0.0.1, which listens from now on and answers while it serves; port 0 takes any
    free one.

    It answers GET and HEAD of `/` and nothing else, and only when the request names this machine's loopback address: a
    foreign web page whose name was made to point here (DNS rebinding) is refused.

    Raises ValueError when the port is taken or not allowed.
    """

    def __init__(self, page: LivePage, port: int = 0) -> None:
        try:
            if not 0 <= port < 65_536:
                raise OSError("ports are numbers from 0 to 65,535")
            self._listener = socket.create_server((ADDRESS, port))
        except OSError as error:
            raise ValueError(
                f"cannot serve on port {port} of {ADDRESS}: {error}; choose another with --port, or 0 for any free one"
            ) from error
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{ADDRESS}:{self.port}/"
        hosts = {f"{name}:{self.port}" for name in NAMES}
        self._server = _OnceInterrupted(
            uvicorn.Config(
                _application(page, hosts),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,  # a page that reloads itself would fill the terminal
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )

    def serve(self) -> None:
        """Serve until Ctrl-C, or until `stop` is called by another thread."""
        for name in ("uvicorn.error", "asyncio"):  # what clients do wrong, or break off, is not told
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _allow_many_connections()
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        self._server.should_exit = True


class _OnceInterrupted(uvicorn.Server):
    """A server that ends by a signal and does not raise it again then, as two signals tell a process to end at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def _allow_many_connections() -> None:
    """Each connection is an open file, also that of a client which never ends its request."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if most == resource.RLIM_INFINITY else min(most, CONNECTIONS)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _application(page: LivePage, hosts: set[str]) -> Callable[..., Awaitable[None]]:
    """The page as an ASGI application."""

    async def answer(scope: dict[str, Any], receive: object, send: Send) -> None:
        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or named[0] not in hosts:
            await _send_text(send, HTTPStatus.FORBIDDEN, "This server answers to its loopback address only.")
        elif scope["method"] not in METHODS:
            await _send_text(send, HTTPStatus.METHOD_NOT_ALLOWED, "This page can be read only.", Allow="GET, HEAD")
        elif scope["path"] != "/":
            await _send_text(send, HTTPStatus.NOT_FOUND, "There is only one page here: /")
        elif (content := await page.content()) is None:
            await _send_text(send, HTTPStatus.SERVICE_UNAVAILABLE, "The report cannot be built now; see the terminal.")
        else:
            await _send(send, HTTPStatus.OK, content, {"Content-Type": HTML})

    return answer


async def _send_text(send: Send, status: HTTPStatus, text: str, **headers: str) -> None:
    await _send(send, status, text.encode(), {"Content-Type": TEXT, **headers})


async def _send(send: Send, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
    named = {"Server": "labelscale", **HEADERS, **headers, "Content-Length": str(len(content))}
    encoded = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status.value, "headers": encoded})
    for start in range(0, len(content), PIECE):
        await send({"type": "http.response.body", "body": content[start : start + PIECE], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
