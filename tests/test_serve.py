"""The live report: this machine only, this page only, built again when there is something new."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import synthetic
from reports.progress import Progress
from reports.serve import LivePage, Server
from reports.storage import Storage
from reports.stored import write_record
from studies import tiny_study
from study.plan import ExpectedImages, make_plan
from study.progress import write_progress
from study.reporting import Refresher, refreshing


@contextmanager
def served(page: LivePage) -> Iterator[int]:
    """Port of a server of this page, which is shut down at the end of the block."""
    server = Server(page)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        yield server.port
    finally:
        server.stop()
        thread.join()


def ask(port: int, path: str = "/", method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def fixed(text: str = "<p>é</p>") -> LivePage:
    return LivePage(lambda: 0, lambda: text)


def test_page_is_served_whole_and_never_kept() -> None:
    with served(fixed()) as port:
        status, headers, content = ask(port, "/?again")
        assert (status, content) == (200, "<p>é</p>")
        assert headers["content-type"] == "text/html; charset=utf-8" and headers["cache-control"] == "no-store"
        status, headers, content = ask(port, method="HEAD")
        assert (status, content, headers["content-length"]) == (200, "", str(len("<p>é</p>".encode())))


@pytest.mark.parametrize("path", ["/records", "/..", "/index.html", "/../../etc/passwd", "*"])
def test_nothing_else_is_there(path: str) -> None:
    with served(fixed()) as port:
        assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(method: str) -> None:
    with served(fixed()) as port:
        status, headers, _ = ask(port, method=method)
        assert status == 405 and headers["allow"] == "GET, HEAD"


def test_only_names_of_this_machine_are_answered() -> None:
    with served(fixed("secret")) as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}"):
            assert ask(port, host=host)[0] == 200
        for host in ("", "evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "localhost:1"):
            status, _, content = ask(port, host=host)
            assert status == 403 and "secret" not in content


def test_page_is_built_again_only_when_there_is_something_new() -> None:
    results, built = ["a"], []

    def build() -> str:
        built.append(len(results))
        return f"{len(results)} records"

    with served(LivePage(lambda: len(results), build)) as port:
        assert ask(port)[2] == ask(port)[2] == "1 records"
        results.append("b")
        assert ask(port)[2] == "2 records"
    assert built == [1, 2]


def test_storage_that_fails_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["no such bucket", ""])

    def build() -> str:
        if reason := next(answers):
            raise OSError(reason)
        return "back again"

    with served(LivePage(lambda: 0, build)) as port:
        status, _, content = ask(port)
        assert status == 503 and "no such bucket" not in content
        assert ask(port)[::2] == (200, "back again")
    assert "no such bucket" in capsys.readouterr().err


def connected(port: int, said: bytes = b"") -> socket.socket:
    """A client that has said so much and reads nothing."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(said)
    return client


def request(port: int, *headers: str, target: str = "/") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""]).encode()


def read_all(client: socket.socket) -> bytes:
    with client, client.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize(
    "said",
    [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n",  # two hosts
        "GET / HTTP/1.0\r\n",  # none
        "GET / HTTP/1.0\r\nHost: evil.example\r\nHost: 127.0.0.1:{port}\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n",
        "GET / HTTP/1.1\r\nX-Forwarded-Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n",
        "nonsense\r\n",
    ],
)
def test_odd_requests_are_told_nothing(said: str) -> None:
    with served(fixed("secret")) as port:
        answer = read_all(connected(port, f"{said.format(port=port)}Connection: close\r\n\r\n".encode()))
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")) and b"secret" not in answer


def test_two_hundred_readers_at_once_share_a_look_beside_slow_ones() -> None:
    """Others have begun a request and do not end it, or do not read what they asked for."""
    looks, built, begun = list[int](), list[int](), threading.Event()

    def look() -> int:
        begun.wait(60)
        looks.append(1)
        return 0

    def build() -> str:
        built.append(1)
        return "x" * 2_000_000

    with served(LivePage(look, build)) as port:
        slow = [connected(port, said) for said in (b"GET / HT", request(port)) for _ in range(100)]
        readers = [connected(port, request(port, "Connection: close")) for _ in range(200)]
        begun.set()
        for reader in readers:
            head, _, content = read_all(reader).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and len(content) == 2_000_000
        for client in slow:
            client.close()
    assert len(looks) <= 3 and len(built) == 1


def test_connections_that_are_reset_are_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with served(fixed("x" * 2_000_000)) as port:
        for said in (b"", b"GET /", request(port), request(port) * 2, b"\0"):
            client = connected(port, said)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
        assert ask(port)[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("port", [-1, 70_000])
def test_port_that_cannot_be_had(port: int) -> None:
    with pytest.raises(ValueError, match="choose another with --port"):
        Server(fixed(), port)


def test_port_that_is_taken() -> None:
    with served(fixed()) as port, pytest.raises(ValueError, match=f"cannot serve on port {port}"):
        Server(fixed(), port)


def wait(refresher: Refresher) -> None:
    assert refresher.process is not None
    assert refresher.process.wait(60) == 0


def test_launch_refreshes_the_report_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.reporting.RUNNING_SECONDS", 0.0)
    study = tiny_study()
    plan = make_plan(study, ExpectedImages.of(study))
    storage = Storage(str(tmp_path / "it's here"))
    report = tmp_path / "it's here" / "reports" / "tiny.html"
    ids = list(plan.trials)
    write_progress(storage, ids[-2], Progress(0.25, time.time(), "2026-01-02"))
    write_progress(storage, ids[-1], Progress(0.25, time.time(), "2026-01-01"))
    with refreshing(plan, storage, since="2026-01-02") as refresher:
        refresher.refresh(0, plan.trials)
        assert refresher.process is None  # nothing has ended
        write_record(storage, synthetic.record(ids[0], "pretrain", "r10w0.0625"))
        refresher.refresh(1, plan.trials)
        first = refresher.process
        refresher.refresh(2, plan.trials)
        assert refresher.process is first  # one at a time
        wait(refresher)
        page = report.read_text(encoding="utf-8")
        assert "1 trial running" in page and f"<td>{ids[-2]}</td>" in page
        assert f"1 of {len(ids)} planned trials finished" in page and 'id="reload"' in page and ids[-1] in page
        refresher.refresh(1, plan.trials)
        assert refresher.process is first  # nothing is new
        time.sleep(0.2)
        refresher.refresh(1, plan.trials, running=True)
        last = refresher.process
        assert last is not None and last is not first
    assert last.poll() is not None  # a launch that ends leaves nothing behind
    assert [path.name for path in report.parent.iterdir()] == ["tiny.html"]


def test_command_serves_until_ctrl_c(tmp_path: Path) -> None:
    """Beside clients that hold their connections: two seconds are promised, of which a busy machine gets some more."""
    command = [
        *("env", "--default-signal=INT"),  # a shell starts what it runs in the background with SIGINT ignored
        *(sys.executable, "-m", "study", "report", "study/presets/digits.yaml"),
        *("--storage", str(tmp_path), "--serve"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", line)
        assert found, line
        port = int(found[1])
        status, _, content = ask(port)
        assert status == 200 and "0 of 225 planned trials finished" in content
        with (
            closing(http.client.HTTPConnection("127.0.0.1", port)) as idle,
            connected(port),
            connected(port, b"GET / HT"),
            connected(port, request(port)),
        ):
            idle.request("HEAD", "/")
            assert idle.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert process.stderr.read() == ""


SLOW = """
import time
from reports.serve import LivePage, Server
from study.ending import ending
ending.take()
server = Server(LivePage(lambda: None, lambda: time.sleep(1) or "page"))
print(server.port, flush=True)
server.serve()
time.sleep(1.5)
"""


def test_end_that_takes_its_time_is_no_second_signal() -> None:
    command = ["env", "--default-signal=INT", sys.executable, "-c", SLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        port = int(process.stdout.readline())
        with connected(port, request(port)):  # is answered after a second: the server waits for it before it ends
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert process.stderr.read() == ""


STUCK = """
import threading
from study.reporting import serve_report
serve_report(threading.Event().wait, lambda: None, 0)
"""


def test_page_of_a_storage_that_does_not_answer_is_not_waited_for_at_the_end() -> None:
    command = ["env", "--default-signal=INT", sys.executable, "-c", STUCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        port = int(process.stdout.readline().rpartition(":")[2].partition("/")[0])
        with connected(port, request(port)) as client:
            with pytest.raises(TimeoutError):
                client.settimeout(0.3)
                client.recv(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert process.stderr.read() == ""
