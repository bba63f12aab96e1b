"""How far running trials are, as a launch follows them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from object_store import ObjectStore
from reports.progress import Progress, read_progresses
from reports.storage import Storage
from study.display import OnStep
from study.progress import write_progress
from study.running import Notes, following


def until() -> Iterator[None]:
    """Moments until a test has waited too long."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)
    raise AssertionError("it did not come true")


def test_many_are_read_at_the_same_time_and_those_without_any_are_left_out(store: ObjectStore) -> None:
    """The first answers wait until twelve are asked for."""
    storage = Storage(store.bucket("many"))
    for number in range(20):
        write_progress(storage, f"t{number}", Progress(number / 20, time.time()))
    asked, together = itertools.count(1), threading.Event()

    def gather(method: str, path: str) -> None:
        if method == "GET" and path.endswith("progress.json"):
            if next(asked) >= 12:
                together.set()
            assert together.wait(20)

    store.fault = gather
    found, problems = read_progresses(storage, [f"t{number}" for number in range(21)])
    assert problems == []
    assert {id: known.share for id, known in found.items()} == {f"t{number}": number / 20 for number in range(20)}


def test_what_was_read_last_counts_while_the_storage_does_not_answer(store: ObjectStore) -> None:
    storage, ids, refused = Storage(store.bucket("kept")), ["a"], threading.Event()
    write_progress(storage, "a", Progress(0.25, time.time()))
    with following(storage, lambda: ids, seconds=0.01) as follower:
        for _ in until():
            if follower.known:
                break

        def refuse(method: str, path: str) -> str | None:
            refused.set()
            return "403"

        store.fault = refuse
        assert refused.wait(20)
        assert follower.known["a"].share == 0.25
        store.fault = None
        write_progress(storage, "a", Progress(0.75, time.time()))
        for _ in until():
            if follower.known["a"].share == 0.75:
                break
        ids.clear()
        for _ in until():
            if not follower.known:
                break


def test_a_function_slower_than_its_interval_is_not_called_in_every_step() -> None:
    calls = []

    def slow() -> None:
        calls.append(time.monotonic())
        time.sleep(1.1)

    callback = OnStep(slow, 1.0)
    time.sleep(1.0)
    for step in range(10):
        callback.on_step_end(step, [])
    assert len(calls) == 1


def test_notes_of_workers_are_said_once(tmp_path: Path) -> None:
    storage, said = Storage(str(tmp_path)), list[str]()
    write_progress(storage, "a", Progress(0.25, time.time()))
    with following(storage, lambda: ["a", "b"], seconds=0.01) as follower:
        notes = Notes(said.append, follower)
        write_progress(storage, "b", Progress(0.5, time.time(), note="b begins anew, since it has to"))
        for _ in until():
            notes.look()
            if said and follower.known.get("a"):
                break
        notes.look()
    assert said == ["b begins anew, since it has to"]
