"""Following a job on a cluster, against a server that speaks as a dashboard does and does what the test wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

import study.jobs
from studies import tiny
from study.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's, about aiohttp

Tail = list[str | Callable[[], None] | None]
"""What a job says, piece by piece, with calls of what happens meanwhile; at None the connection breaks."""


class Dashboard:
    """The jobs that were submitted, by id; what each request for a job's output is answered with, the last of them for
    ever; and the HTTP status with which lists of jobs are refused."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.tails: list[Tail] = [[]]
        self.refused: list[int] = []
        self.tailed = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.page),
            web.get("/api/version", self.version),
            web.get("/api/packages/{protocol}/{name}", self.page),  # there already
            web.post("/api/jobs/", self.submit),
            web.get("/api/jobs/", self.list),
            web.get("/api/jobs/{id}/logs/tail", self.tail),
        ]

    async def page(self, request: web.Request) -> web.Response:
        return web.Response()

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def submit(self, request: web.Request) -> web.Response:
        job = await request.json()
        job = {name: job[name] for name in ("submission_id", "entrypoint", "metadata", "runtime_env")}
        self.jobs[job["submission_id"]] = {**job, "type": "SUBMISSION", "status": "RUNNING"}
        return web.json_response({"submission_id": job["submission_id"], "job_id": job["submission_id"]})

    async def list(self, request: web.Request) -> web.Response:
        if self.refused:
            return web.Response(status=self.refused.pop(0), text="as the test wants it")
        return web.json_response(list(self.jobs.values()))

    async def tail(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] not in self.jobs:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        tail = self.tails.pop(0) if len(self.tails) > 1 else self.tails[0]
        self.tailed += 1
        for piece in tail:
            if isinstance(piece, str):
                await socket.send_str(piece)
            elif piece is not None:
                piece()
            elif request.transport is not None:
                request.transport.abort()
        return socket

    def end(self, code: int = 0) -> None:
        """All jobs end with this exit code."""
        for job in self.jobs.values():
            job.update(status="FAILED" if code else "SUCCEEDED", driver_exit_code=code)

    def replace_head(self) -> None:
        self.jobs.clear()


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Dashboard, str]]:
    """A running one with its URL."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(study.jobs, "RETRY_SECONDS", 0.1)
    served, url, loop = Dashboard(), Future[str](), asyncio.new_event_loop()
    closing = asyncio.Event()

    async def serve() -> None:
        application = web.Application()
        application.add_routes(served.routes())
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        url.set_result(f"http://{host}:{port}")
        await closing.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    yield served, url.result(30)
    loop.call_soon_threadsafe(closing.set)
    thread.join(30)
    loop.close()


@pytest.fixture
def launch(dashboard: tuple[Dashboard, str], tmp_path: Path) -> Callable[..., int]:
    """Launches the study in `tmp_path` on that cluster, with options; returns the exit code."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    return lambda *options: main(["launch", str(file), "--cluster", dashboard[1], "--storage", "/shared", *options])


def test_output_is_printed_once_however_often_the_connection_breaks(
    dashboard: tuple[Dashboard, str], launch: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    served, _ = dashboard
    served.tails = [
        ["one\n", None],
        [None],
        ["one\ntwo\n"],
        ["one\n", "two\nthree\n", lambda: served.end(3)],
    ]
    assert launch() == 3
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert out.count("the connection is lost; trying again") == 2


@pytest.mark.parametrize("when", ["while it is followed", "while the connection is lost"])
def test_job_of_a_head_that_was_replaced_is_told_at_once(
    when: str, dashboard: tuple[Dashboard, str], launch: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    served, _ = dashboard
    served.tails = [["one\n", served.replace_head, *([None] if "lost" in when else [])]]
    assert launch() == 2
    said = capsys.readouterr()
    id = said.out.split()[1]
    assert f"job {id} is not known to the cluster any more: its head was replaced" in said.err
    assert "launch again" in said.err and served.tailed == 1


def test_job_that_is_not_heard_of_is_given_up_in_the_end(
    dashboard: tuple[Dashboard, str],
    launch: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, _ = dashboard
    monkeypatch.setattr(study.jobs, "LOST_SECONDS", 1.0)
    served.tails = [[None]]  # the cluster has the job, its output cannot be had
    assert launch() == 2
    assert "lost sight of job tiny-" in capsys.readouterr().err and served.tailed > 2


def test_cluster_that_does_not_tell_its_jobs_is_asked_again_but_not_at_first(
    dashboard: tuple[Dashboard, str], launch: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    served, _ = dashboard
    served.refused = [500]
    assert launch() == 2 and not served.jobs
    assert "error: the cluster does not tell its jobs: Request failed with status code 500" in capsys.readouterr().err
    served.tails = [[lambda: served.refused.extend((500, 404))], [served.end]]
    assert launch() == 0


def test_running_job_is_followed_with_its_options_and_no_others(
    dashboard: tuple[Dashboard, str], launch: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    served, _ = dashboard
    options = ("--set", "pretrain.optimization.epochs=3", "--seeds", "2")
    served.tails = [[served.end]]
    assert launch(*options) == 0
    (job,) = served.jobs.values()
    id, with_options = job["submission_id"], f"with `{' '.join(options)}`"
    assert job["entrypoint"].endswith(f"--storage /shared {' '.join(options)}")
    job["status"] = "RUNNING"
    for others, told in (
        ((), "launching without options does not change it"),
        ((*options, "--retry-failed"), f"launching with `{' '.join(options)} --retry-failed` does not"),
        (("--seeds", "3"), "launching with `--seeds 3` does not"),
        (("--only", "stage=pretrain seed=0"), "launching with `--only 'stage=pretrain seed=0'` does not"),
        (("--budget-gpu-hours", "2"), "launching with `--budget-gpu-hours 2.0` does not"),
    ):
        assert launch(*others) == 2
        said = capsys.readouterr().err
        assert f"job {id} of this study runs on the storage /shared, launched {with_options}" in said
        assert told in said and f"ray job stop {id}" in said
    assert launch(*options) == 0 and f"following job {id}" in capsys.readouterr().out
    job["status"] = "RUNNING"
    file = tmp_path / "study.yaml"
    file.write_text("# a comment\n" + file.read_text())
    assert launch(*options) == 0 and f"following job {id}" in capsys.readouterr().out
    job["status"] = "RUNNING"
    file.write_text(yaml.safe_dump(tiny(execution={"workers": 2, "per_worker": {"CPU": 1}})))
    assert launch(*options) == 2 and "as its file was before it was changed" in capsys.readouterr().err
    assert list(served.jobs) == [id]


def test_variables_of_nccl_reach_the_job(
    dashboard: tuple[Dashboard, str], launch: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = dashboard
    served.tails = [[served.end]]
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert launch() == 0
    (job,) = served.jobs.values()
    assert job["runtime_env"]["env_vars"]["NCCL_DEBUG"] == "INFO"
