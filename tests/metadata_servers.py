"""Servers on the loopback address that answer as the documentation of AWS and of Google says of metadata services."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

END = json.dumps({"action": "stop", "time": "2099-03-01T08:22:00Z"})


class Metadata(BaseHTTPRequestHandler):
    """A service that counts questions: `notice` is what it says (None: nothing is to end), `fault` how it fails."""

    notice: str | None = None
    asked: int = 0
    fault: str = ""
    address: str = ""

    def answer(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text) + (self.fault == "cut short")))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class AWS(Metadata):
    """EC2's metadata service, version 2: a token first, then 404 until there is a notice."""

    def do_PUT(self) -> None:
        type(self).asked += self.fault != ""
        if self.fault == "silence":
            return
        granted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self.answer(200 if granted else 403, "a-token")

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self.answer(401, "")
        elif self.notice is None or self.path != "/latest/meta-data/spot/instance-action":
            self.answer(404, "")
        else:
            self.answer(200, self.notice)


class Google(Metadata):
    """Compute Engine's metadata server: TRUE or FALSE, if it is asked with its header."""

    def do_PUT(self) -> None:
        self.answer(405, "", Metadata_Flavor="Google")

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.fault == "silence":
            return
        if self.headers["Metadata-Flavor"] != "Google":
            self.answer(403, "Missing required header", Metadata_Flavor="Google")
        elif self.path != "/computeMetadata/v1/instance/preempted":
            self.answer(404, "", Metadata_Flavor="Google")
        else:
            self.answer(200, self.notice or "FALSE", Metadata_Flavor="Google")


@contextmanager
def running(kind: type[Metadata]) -> Iterator[type[Metadata]]:
    """A server of its own counts; `address` is its host and port."""
    fresh = type("Fresh", (kind,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), fresh)
    fresh.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield fresh
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
