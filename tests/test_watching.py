"""A training that runs is watched: what it tells of itself, and who shows it."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rich.console
import yaml

import study.follow
import study.progress
import synthetic
import trials
from datasets.typed_files import BadFileError
from reports.page import build_page
from reports.progress import Progress, read_progress
from reports.results import Results, StudyInfo
from reports.running import LISTED, loss_curve
from reports.storage import Storage
from simulated import finish
from studies import tiny
from study.cli import main
from study.known import current_plan
from study.lease import lease
from study.load import load_study
from study.progress import Telling, write_progress
from study.reporting import running_now
from trainables.context import Context
from trainables.course import Course
from trainables.stages import run_stage

PACE = {"images_per_second", "data_wait"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pace_is_of_the_time_since_the_row_before() -> None:
    """Batches that take 1, 2, 3 and 4 seconds to come, and 3 seconds to be trained on."""
    clock = Clock()

    def slow() -> Iterator[int]:
        for number in range(1, 5):
            clock.now += number
            yield number

    course, rows = Course(clock), list[dict[str, float]]()
    course.begin([], 100, lambda: {"loss": 7.0})
    for number in course.fetched(slow()):
        clock.now += 3
        course.stepped(100 + 10 * number)
        rows.append(course.rows()[-1])
        if number == 2:
            course.add({"loss": 5.0})
    assert rows[0] == {"loss": 7.0, "images_per_second": 10 / 4, "data_wait": 1 / 4}
    assert rows[1] == {"loss": 7.0, "images_per_second": 20 / 9, "data_wait": 3 / 9}
    assert course.rows()[0] == {"loss": 5.0, "images_per_second": 20 / 9, "data_wait": 3 / 9}
    assert rows[3] == {"loss": 7.0, "images_per_second": 20 / 13, "data_wait": 7 / 13}


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
def test_what_is_watched_is_the_history_of_the_record_and_changes_nothing(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    """With two rows, of three steps each but perhaps for the last; what is told in between are running means."""
    assignment = trials.assignment(shards, trials.settings(stage))
    fine = run_stage(stage, assignment, Context(str(tmp_path / "fine"))).progress.history
    monkeypatch.setattr("trainables.loop.HISTORY_ROWS", 2)
    told: list[list[dict[str, float]]] = []
    context = Context(str(tmp_path / "watched"))
    context.report = lambda share: told.append([dict(row) for row in context.course.rows()])
    history = run_stage(stage, assignment, context).progress.history
    assert [row["step"] for row in history] == [3.0, float(len(fine))]
    assert not PACE & history[0].keys()
    watched = [{name: value for name, value in row.items() if name not in PACE} for row in context.course.rows()]
    assert watched == history and all(row.keys() >= PACE for row in context.course.rows())
    assert all(0 <= row["data_wait"] <= 1 and row["images_per_second"] > 0 for row in context.course.rows())
    for step, rows in enumerate(told[: len(fine)], 1):
        first = 0 if step <= 3 else 3
        losses = [row["loss"] for row in fine[first:step]]
        assert rows[-1]["step"] == step and rows[-1]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-9)
        assert rows[-1]["learning_rate"] == fine[step - 1]["learning_rate"]


def test_history_is_written_beside_the_share_at_most_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, storage = Clock(), Storage(str(tmp_path))
    monkeypatch.setattr("study.progress.time.monotonic", clock)
    rows = [{"step": 1.0, "loss": 2.5, "effective_rank": float("nan"), "probe_loss": float("inf")}]
    telling = Telling(storage, "t", "2026", "node", history=lambda: rows)
    written = []
    for step in range(12):
        clock.now = float(step)
        telling.tell(step / 12, 0.0)
        known = read_progress(storage, "t")
        assert known is not None and known.history == ({"step": 1.0, "loss": 2.5},)
        written.append(known.share)
    assert written == [0.0] * 5 + [5 / 12] * 5 + [10 / 12] * 2


def test_history_that_cannot_be_written_stops_no_training() -> None:
    class Silent(Storage):
        def write_bytes(self, content: bytes, *parts: str) -> None:
            raise OSError("no answer")

    telling = Telling(Silent("/tmp/nothing"), "t", "2026", "node", history=lambda: [{"loss": 1.0}])
    telling.tell(0.5, 0.0)
    telling.write(1.0, 0.0, ended=True)


@pytest.mark.parametrize(
    "history",
    [
        None,
        {},
        [1],
        [[]],
        [{"loss": "low"}],
        [{"loss": None}],
        [{"loss": {"now": 1}}],
        [{"x" * 101: 1.0}],
        [{str(number): 1.0 for number in range(51)}],
        [{}] * 1001,
        [{"loss": 1e41}],
    ],
)
def test_odd_histories_are_named(tmp_path: Path, history: Any) -> None:
    storage = Storage(str(tmp_path))
    content = {"share": 0.5, "updated_at": 1e9, "history": history}
    storage.write_bytes(json.dumps(content).encode(), "checkpoints", "t", "progress.json")
    with pytest.raises(BadFileError, match=r"progress\.json: history"):
        read_progress(storage, "t")


ROWS = [{"step": float(step), "loss": 8.0 / step, "learning_rate": 0.1, "probe_loss": 1.5} for step in (1, 2, 4)]
LAST = {"step": 5.0, "loss": 1.25, "learning_rate": 0.05, "images_per_second": 1234.4, "data_wait": 0.256}


def told(share: float, *rows: dict[str, float]) -> Progress:
    """What a trial of a launch that begins now tells."""
    return Progress(share, time.time(), datetime.now(UTC).isoformat(), history=rows)


def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, ends: bool) -> tuple[int, str]:
    """Exit code and output of a study that is followed, while trials go on and are finished (if it `ends`)."""
    file, storage = tmp_path / "study.yaml", Storage(str(tmp_path / "runs"))
    stages = {name: tiny()["stages"][name] for name in ("pretrain", "linear")}
    file.write_text(yaml.safe_dump(tiny(stages=stages)))
    plan = current_plan(load_study(file), storage)
    pretrain, linear = plan.trials
    held = lease(storage, "tiny")
    steps: list[Callable[[], Any]] = [
        lambda: write_progress(storage, pretrain, told(0.4, *ROWS, LAST)),
        lambda: finish(storage, pretrain, plan.trials[pretrain].spec, 0.5),
        lambda: ends and finish(storage, linear, plan.trials[linear].spec, 0.5),
        lambda: held.__exit__(None, None, None),
    ]
    monkeypatch.setattr(study.follow.time, "sleep", lambda seconds: steps.pop(0)())
    monkeypatch.setattr(study.follow, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(study.follow, "RESTS", 0.0)
    console = rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=200)
    held.__enter__()
    code = study.follow.follow(lambda: current_plan(load_study(file), storage), storage, console)
    if steps and ends:
        held.__exit__(None, None, None)
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return code, shown.getvalue()


def test_status_follows_a_study_until_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = followed(tmp_path, monkeypatch, terminal=False, ends=True)
    said = [line.partition("  ")[2] or line for line in capsys.readouterr().out.splitlines()]
    told = "done 40 %, loss 1.25, learning rate 0.05, images/s 1,234, waits for data 26 %"
    assert code == 0 and said[:2] == ["2 waiting", "1 running, 1 waiting"]
    assert re.fullmatch(rf"pretrain-\S+: {told}", said[2]) and said[3] == "1 done, 1 waiting"
    assert said[4].startswith("stage") or "done" in said[4]


def test_status_follows_in_a_terminal_and_ends_with_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, drawn = followed(tmp_path, monkeypatch, terminal=True, ends=False)
    assert code == 1 and "waits for data" in drawn and "1,234" in drawn and "1 running, 1 waiting" in drawn
    assert capsys.readouterr().out.splitlines()[-1].startswith("no launch of this study runs now")


def test_status_of_a_study_that_nobody_runs_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    (tmp_path / "runs").mkdir()
    with lease(Storage(str(tmp_path / "runs")), "another"):
        assert main(["status", str(file), "--storage", str(tmp_path / "runs"), "--follow"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("no launch of this study runs now")


def test_ctrl_c_ends_the_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, storage = tmp_path / "study.yaml", Storage(str(tmp_path / "runs"))
    file.write_text(yaml.safe_dump(tiny()))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study.follow.time, "sleep", interrupt)
    with lease(storage, "tiny"):
        assert main(["status", str(file), "--storage", storage.root, "--follow"]) == 1


def progress_of(*rows: dict[str, float]) -> Progress:
    return Progress(0.4, 1e9, "2026", "node", 0.3, history=rows)


def test_page_shows_what_runs_now_with_the_curve_of_its_loss() -> None:
    evil = "</script><script>alert(1)</script>"
    running = {"pretrain-a": progress_of(*ROWS, LAST), evil: progress_of()}
    info = StudyInfo("watched", "")
    page = build_page(Results(info, synthetic.study()[:3], running=running))
    (section,) = re.findall(r'<section id="running">.*?</section>', page)
    assert evil not in page and "2 trials running" in section
    (points,) = re.findall(r'<polyline points="([^"]*)"', section)
    drawn = [tuple(map(float, point.split(","))) for point in points.split()]
    low, high = 1.25, 8.0
    expected = [
        (200 * (step - 1) / 4, 40 * (high - loss) / (high - low)) for step, loss in ((1, 8), (2, 4), (4, 2), (5, 1.25))
    ]
    assert drawn == [pytest.approx(point, abs=0.06) for point in expected]
    for cell in ("40 %", "1.25", "0.05", "1,234", "26 %"):
        assert f'<td class="number">{cell}</td>' in section
    assert build_page(Results(info, synthetic.study()[:3])) == page.replace(section, "")


def test_page_shows_so_many_trials_and_points_and_no_more() -> None:
    running = {f"t{number}": progress_of() for number in range(LISTED + 7)}
    page = build_page(Results(StudyInfo("many", ""), [], running=running))
    assert page.count("<td>t") == LISTED and "And 7 more." in page
    curve = loss_curve([(float(step), 1.0) for step in range(1000)])
    (points,) = re.findall(r'points="([^"]*)"', curve)
    assert len(points.split()) == 101 and points.endswith("200.0,0.0")


def test_only_what_a_living_launch_runs_is_running(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_progress(storage, "old", Progress(0.1, time.time(), "2026-01-01T00:00:00+00:00"))
    with lease(storage, "tiny"):
        write_progress(storage, "new", told(0.2, *ROWS))
        write_progress(storage, "ended", replace(told(0.2), ended=True))
        assert running_now(storage, ["old", "new", "ended", "never"]).keys() == {"new"}
    assert running_now(storage, ["old", "new", "ended", "never"]) == {}
