"""One driver on a storage at a time, on a local folder and on an object store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from datasets.object_store import StorageError
from object_store import ObjectStore
from reports.storage import Storage
from studies import tiny
from study import lease as lease_module
from study.lease import lease

HOLDER = """
import signal, sys, time
from reports.storage import Storage
from study.lease import lease
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the test runs
with lease(Storage(sys.argv[1]), "first", print, heartbeat_seconds=0.3, stale_seconds=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A lease that is lost interrupts the main thread, unless the test's process ignores that signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["folder", "object store"])
def storage(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Storage(str(tmp_path / "runs"))
    return Storage(store.bucket(re.sub(r"[^a-z]+", "-", request.node.name).strip("-")[:60]))


class Driver:
    """Another process that holds the lease."""

    def __init__(self, storage: Storage, stale_seconds: float) -> None:
        command = [sys.executable, "-c", HOLDER, storage.root, str(stale_seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal and wait for the end: exit code and last line of the errors."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, (errors.splitlines() or [""])[-1]


def claims(storage: Storage) -> list[str]:
    return storage.list("lease")


def test_second_driver_is_refused_and_told_who_the_first_is(storage: Storage) -> None:
    driver = Driver(storage, 60)
    with pytest.raises(ValueError, match="in use") as refused, lease(storage, "second"):
        pass
    message = str(refused.value)
    assert f"'first' on host {os.uname().nodename}, pid {driver.process.pid}, since 2" in message
    assert storage.root in message and len(claims(storage)) == 1
    driver.stop(signal.SIGINT)
    assert claims(storage) == []


def test_lease_is_released_also_on_errors(storage: Storage) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), lease(storage, "a"):
            assert len(claims(storage)) == 1
            raise error
        assert claims(storage) == []
    with lease(storage, "a"):
        pass
    assert claims(storage) == []


def test_lease_of_a_killed_process_of_this_machine_is_taken_over_at_once(storage: Storage) -> None:
    driver = Driver(storage, 1000)
    driver.stop(signal.SIGKILL)
    assert len(claims(storage)) == 1
    with lease(storage, "second"):
        assert len(claims(storage)) == 1


@pytest.mark.parametrize("content", [b"", b'{"study": "s", "ho', b"[]"])
def test_torn_lease_of_a_killed_process_of_this_machine_costs_nothing(tmp_path: Path, content: bytes) -> None:
    storage, said = Storage(str(tmp_path / "runs")), list[str]()
    driver = Driver(storage, 1000)
    [name] = claims(storage)
    storage.write_bytes(content, "lease", name)
    with pytest.raises(ValueError, match=f"cannot be read, pid {driver.process.pid} of this"), lease(storage, "second"):
        pass
    driver.stop(signal.SIGKILL)
    with lease(storage, "second", said.append):
        assert len(claims(storage)) == 1 and name not in claims(storage)
    assert said == []


def test_lease_without_heartbeat_is_taken_over_and_the_first_driver_ends(storage: Storage) -> None:
    driver = Driver(storage, 1000)
    driver.process.send_signal(signal.SIGSTOP)
    refused, deadline = 0, time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        try:
            with lease(storage, "second", heartbeat_seconds=0.2, stale_seconds=3) as second:
                driver.process.send_signal(signal.SIGCONT)
                code, message = driver.end()
                assert second.lost is None
            break
        except ValueError:
            refused += 1
            time.sleep(0.1)
    assert refused, "its last heartbeat was not three seconds ago"
    assert code == 1 and message.startswith("ValueError") and storage.root in message
    assert claims(storage) == []


def test_beating_heart_keeps_the_lease(storage: Storage) -> None:
    driver = Driver(storage, 3)
    deadline = time.monotonic() + 7
    while time.monotonic() < deadline:
        with pytest.raises(ValueError, match="in use"), lease(storage, "second", stale_seconds=3):
            pass
        time.sleep(0.5)
    driver.stop(signal.SIGINT)


def test_of_many_that_start_together_one_holds_the_lease_at_any_time(storage: Storage) -> None:
    inside, most, held, refused = [0], [0], [0], [0]
    lock, start = threading.Lock(), threading.Barrier(6)

    def drive() -> None:
        start.wait()
        for _ in range(3):
            try:
                with lease(storage, "one"):
                    with lock:
                        held[0] += 1
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    time.sleep(0.02)
                    with lock:
                        inside[0] -= 1
            except ValueError as error:
                assert "in use" in str(error)
                with lock:
                    refused[0] += 1

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and held[0] >= 1 and refused[0] >= 1 and held[0] + refused[0] == 18
    assert claims(storage) == []


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set while the storage does not answer; a client of a real one gives up after half a minute."""
    down, listed = threading.Event(), lease_module.written_claims

    def answer(storage: Storage) -> dict[str, float]:
        if down.is_set():
            raise StorageError("nobody answers")
        return listed(storage)

    monkeypatch.setattr(lease_module, "written_claims", answer)
    return down


def test_driver_that_is_cut_off_from_the_storage_ends_in_the_end(outage: threading.Event, tmp_path: Path) -> None:
    root, seconds = str(tmp_path / "runs"), {"heartbeat_seconds": 0.2, "stale_seconds": 1, "cut_off_seconds": 2}
    lost = f"the lease on {root} could not be renewed for 2 s: nobody answers; launch again"
    with pytest.raises(ValueError, match=re.escape(lost)), lease(Storage(root), "cut off", **seconds):
        outage.set()
        time.sleep(60)


@pytest.mark.parametrize("taken_over", [False, True])
def test_driver_goes_on_after_an_outage_unless_it_was_replaced(
    outage: threading.Event, storage: Storage, taken_over: bool
) -> None:
    said: list[str] = []
    try:
        with lease(storage, "a", said.append, heartbeat_seconds=0.2, stale_seconds=1) as held:
            [mine] = claims(storage)
            outage.set()
            deadline = time.monotonic() + 20
            while not said:
                assert time.monotonic() < deadline and held.lost is None
                time.sleep(0.1)
            if taken_over:  # by a driver that is cut off itself meanwhile, or has ended
                storage.delete("lease", mine)
            outage.clear()
            while len(said) < 2:
                assert time.monotonic() < deadline, "it is told that it was replaced, or that the storage answers"
                time.sleep(0.1)
    except ValueError as error:
        assert taken_over and "another driver has taken over" in str(error)
    else:
        assert not taken_over and said[1].endswith("answers again")
    assert "has not answered for" in said[0] and claims(storage) == []


def test_storage_that_is_emptied_in_mid_run_is_said_to_be_that(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with (
        pytest.raises(ValueError, match=f"files of the storage {folder} were deleted while this launch ran"),
        lease(Storage(str(folder)), "emptied", heartbeat_seconds=0.2),
    ):
        shutil.rmtree(folder)
        time.sleep(60)


def test_storage_that_is_gone_when_a_driver_ends_is_no_error(store: ObjectStore) -> None:
    storage = Storage(store.bucket("gone"))
    try:
        with lease(storage, "complete"):
            store.fault = lambda method, path: "403" if "gone" in path else None
    finally:
        store.fault = None
    assert len(claims(storage)) == 1, "it ends by itself"


UNREADABLE = [
    b'{"study": "s", "ho',
    b"\xff\xfe",
    b"[]",
    b"7",
    b'{"who": "a driver of another version"}',
    b'{"pid": []}',
]


def test_claim_that_cannot_be_read_does_not_end_the_heart_beat(storage: Storage) -> None:
    def beat() -> int:
        [info] = storage.filesystem.get_file_info([storage.path("lease", mine)])
        return int(info.mtime_ns)

    with lease(storage, "holder", heartbeat_seconds=0.2, stale_seconds=2) as holder:
        [mine] = claims(storage)
        for number, content in enumerate(UNREADABLE):
            storage.write_bytes(content, "lease", f"x{number}.json")
        last, deadline = beat(), time.monotonic() + 30
        while beat() - last < 3e9:  # longer than it may be without
            assert time.monotonic() < deadline and holder.lost is None
            time.sleep(0.2)
    assert mine not in claims(storage)


@pytest.mark.parametrize("content", UNREADABLE[:1] + UNREADABLE[-2:])
def test_claim_that_cannot_be_read_is_waited_for_as_any_other(storage: Storage, content: bytes) -> None:
    storage.write_bytes(content, "lease", "x.json")
    said: list[str] = []
    with lease(storage, "second", said.append, stale_seconds=2):
        assert len(claims(storage)) == 1
    assert len(said) == 1 and "in use by a driver whose claim cannot be read" in said[0]


def test_claim_of_a_version_that_notes_more_is_read(storage: Storage) -> None:
    driver = Driver(storage, 60)
    [name] = claims(storage)
    storage.write_bytes(json.dumps(storage.read_json("lease", name) | {"more": 1}).encode(), "lease", name)
    with (
        pytest.raises(ValueError, match=f"in use by the study 'first' .* pid {driver.process.pid}"),
        lease(storage, "b"),
    ):
        pass
    driver.stop(signal.SIGINT)


def test_second_launch_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    file, storage = tmp_path / "study.yaml", Storage(str(tmp_path / "runs"))
    file.write_text(yaml.safe_dump(tiny()))
    launch = [sys.executable, "-m", "study", "launch", str(file), "--storage", storage.root]
    with lease(storage, "the first"):
        refused = subprocess.run(launch, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert f"in use by the study 'the first' on host {os.uname().nodename}, pid {os.getpid()}" in refused.stderr
    assert not storage.list("data") and not storage.list("checkpoints")


def claim_elsewhere(storage: Storage, name: str = "x", *, held: bool = True) -> None:
    """As of a driver on another machine, whose pid says nothing here."""
    other = {"study": "s", "host": "elsewhere", "pid": 2**22 + 1, "process": "boot pid:[1] 4194305 7", "held": held}
    content = json.dumps(other | {"since": "2026-01-01T00:00:00+00:00", "name": name}).encode()
    storage.write_bytes(content, "lease", f"{name}.json")


def test_driver_on_another_machine_that_lives_is_waited_for_no_longer_than_its_next_heartbeat(storage: Storage) -> None:
    claim_elsewhere(storage)
    beat = threading.Timer(2.0, claim_elsewhere, [storage])
    beat.start()
    said: list[str] = []
    with pytest.raises(ValueError, match="elsewhere, pid 4194305"), lease(storage, "second", said.append):
        pass
    beat.join()
    assert len(said) == 1 and "elsewhere, pid 4194305" in said[0] and said[0].endswith("waiting whether it lives")
    assert claims(storage) == ["x.json"]


def test_of_two_that_claim_at_once_one_yields_without_waiting(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    claim_elsewhere(storage, "0", held=False)  # before every name of one's own
    with pytest.raises(ValueError, match="elsewhere, pid 4194305"), lease(storage, "second"):
        pass
    assert claims(storage) == ["0.json"]


def test_of_two_that_claim_at_once_the_other_waits_until_it_is_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        storage.delete("lease", "x.json")

    monkeypatch.setattr(time, "sleep", sleep)
    claim_elsewhere(storage, held=False)
    with lease(storage, "second"):
        assert len(waited) == 1 and len(claims(storage)) == 1


def test_driver_on_another_machine_that_died_is_replaced_when_its_lease_ends(storage: Storage) -> None:
    claim_elsewhere(storage)
    said: list[str] = []
    with lease(storage, "second", said.append, stale_seconds=2):
        assert "x.json" not in claims(storage) and len(claims(storage)) == 1
    assert len(said) == 1


ANEW = """
import os, sys
from reports.storage import Storage
from study.lease import lease
with lease(Storage(sys.argv[1]), "first", print):
    print("held", flush=True)
    if "ANEW" not in os.environ:
        os.environ["ANEW"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""


def test_program_that_begins_anew_in_the_same_process_has_left_its_claim(storage: Storage) -> None:
    """Its pid and its start are those of the one before, which is gone."""
    command = [sys.executable, "-c", ANEW, storage.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, "held\nheld\n"), done.stderr
    assert storage.list("lease") == []
