"""A live report on this machine's loopback address: built when asked for, and again when there are new results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")  # what a browser on this machine calls it
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class LivePage:
    """The page, built again only when `state` (what it is built from, cheap to ask for) is another than last time."""

    def __init__(self, state: Callable[[], Hashable], build: Callable[[], str]) -> None:
        self.state, self.build = state, build
        self.lock = threading.Lock()  # two tabs asking at once share one build
        self.built: tuple[Hashable, bytes] | None = None

    def content(self) -> bytes:
        with self.lock:
            state = self.state()
            if self.built is None or self.built[0] != state:
                self.built = state, self.build().encode()
            return self.built[1]


def make_server(page: LivePage, port: int = 0) -> ThreadingHTTPServer:
    """A server of this one page on 127.0.0.1, not yet serving; port 0 takes any free one.

    It answers GET and HEAD of `/` and nothing else, and only when the request names this machine's loopback address: a
    foreign web page whose name was made to point here (DNS rebinding) is refused.

    Raises ValueError when the port is taken or not allowed.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), _handler(page))
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"cannot serve on port {port} of {ADDRESS}: {error}; choose another with --port, or 0 for any free one"
        ) from error


def url(server: ThreadingHTTPServer) -> str:
    return f"http://{ADDRESS}:{server.server_port}/"


def serve(server: ThreadingHTTPServer) -> None:
    """Serve until Ctrl-C."""
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # a client that never finishes its request does not keep a thread for ever
        server_version, sys_version = "labelscale", ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            assert isinstance(self.server, ThreadingHTTPServer)
            allowed = {f"{name}:{self.server.server_port}" for name in NAMES}
            if self.headers.get("Host", "").lower() not in allowed:
                self.send_error(HTTPStatus.FORBIDDEN, "This server answers to its loopback address only")
                return
            if self.path.partition("?")[0] != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                content = page.content()
            except (ValueError, OSError) as error:  # a storage that fails now may answer the next time
                self.log_error("cannot build the report: %s", error)
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The report cannot be built now; see the terminal")
                return
            self.send_response(HTTPStatus.OK)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                with suppress(ConnectionError):  # the tab was closed, or reloaded itself
                    self.wfile.write(content)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Requests are not told: a page that reloads itself would fill the terminal."""

    return Handler
