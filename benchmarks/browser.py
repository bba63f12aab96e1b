"""A headless Chromium driven over two pipes (Chrome DevTools Protocol), for tests and benchmarks of the page."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SECONDS = 60.0  # for one answer of the browser; a busy machine starts it slowly


def find_browser() -> str | None:
    """Path of a Chrome or Chromium: that of BROWSER_PATH, else the first on the PATH; None when there is none."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in a running browser; `events` are what it told since the last `open`, as (method, parameters)."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.to_browser, self.from_browser = to_browser, from_browser
        self.buffer = b""
        self.sent = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result. Raises RuntimeError when the browser refuses it."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data) :]
        while (answer := self._receive()).get("id") != self.sent:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of this size (px) and wait until all of it is there."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = "dark" if dark else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """Load the page again and wait until all of it is there."""
        self._load("Page.reload")

    def _load(self, method: str, **parameters: Any) -> None:
        self.events.clear()
        self.command(method, **parameters)
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._note(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, awaited if it is a promise. Raises RuntimeError when it throws."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of what the window shows."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def print(self, file: Path) -> None:
        """Write the page as it prints, as PDF."""
        file.write_bytes(base64.b64decode(self.command("Page.printToPDF", printBackground=True)["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console and uncaught exceptions since the page was opened."""
        return [
            json.dumps(parameters)
            for method, parameters in self.events
            if method in ("Runtime.exceptionThrown", "Log.entryAdded")
            or (method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"))
        ]

    def requests(self) -> list[str]:
        """URLs that the page asked for since it was opened, itself included, `data:` and `blob:` excluded."""
        urls = [parameters["request"]["url"] for name, parameters in self.events if name == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def _note(self, message: dict[str, Any]) -> None:
        if "method" in message:
            self.events.append((message["method"], message["params"]))

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer within {SECONDS:g} s")
            read = os.read(self.from_browser, 1 << 20)
            if not read:
                raise RuntimeError("the browser ended")
            self.buffer += read
        message, self.buffer = self.buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """A browser with an empty profile, ended with all its processes at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="labelscale-browser-", ignore_cleanup_errors=True) as profile:
        for_browser, to_browser = _high_pipe()
        from_browser, of_browser = _high_pipe()
        command = [executable, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        actions = [
            (os.POSIX_SPAWN_DUP2, for_browser, 3),  # the two numbers that --remote-debugging-pipe expects
            (os.POSIX_SPAWN_DUP2, of_browser, 4),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        process = os.posix_spawn(executable, command, dict(os.environ), file_actions=actions, setpgroup=0)
        os.close(for_browser)
        os.close(of_browser)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            os.close(to_browser)
            os.close(from_browser)
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _high_pipe() -> tuple[int, int]:
    """A pipe whose numbers cannot be 3 or 4."""
    reading, writing = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reading, writing))
    os.close(reading)
    os.close(writing)
    return high[0], high[1]
