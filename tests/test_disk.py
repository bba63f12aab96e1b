"""A full, read-only or forbidden disk: one sentence, nothing half written, and no trial that is called failed."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import OutOfDiskError, OutOfMemoryError, RayTaskError

import trials
from datasets.disk import DiskError, mount_point, sentence, size_text
from datasets.object_store import UnusableError
from reports.storage import Storage
from reports.stored import read_failures
from study.cli import main
from study.execute import run_trial
from study.progress import Telling
from study.refusal import full_disk, unusable
from trainables.checkpoint import BackgroundWriter, save_state
from trainables.context import Context
from trainables.stages import run_stage

SENTENCES = {
    errno.ENOSPC: r"^no space left on .*: \S+ \w+ of \S+ \w+ used; free some or choose another --storage, then launch",
    errno.EDQUOT: r"^this user's quota on .* is used up; free some or choose another --storage, then launch again$",
    errno.EROFS: r"^.* is read-only; make it writable or choose another --storage, then launch again$",
    errno.EFBIG: r"^a file of \S+ \w+ is larger than may be written to ",
    errno.EIO: r"its disk may be broken",
}


@pytest.fixture(params=SENTENCES)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What is written to files of this process's disk meets this error when it is to be on the disk."""
    number: int = request.param

    def fsync(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    return number


def test_whatever_is_written_says_it_in_one_sentence_and_leaves_nothing(broken: int, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "runs"))
    writes: list[Callable[[], Any]] = [
        lambda: storage.write_bytes(b"{}", "records", "a.json"),
        lambda: save_state(storage.uri("checkpoints", "a", "model.pt"), {"step": 1}),
        storage.check_writable,
        lambda: Telling(storage, "a", "now", "here").tell(0.5, 0.0),
    ]
    for write in writes:
        with pytest.raises(DiskError, match=SENTENCES[broken]) as told:
            write()
        assert "\n" not in str(told.value) and len(str(told.value)) < 400
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_checkpoint_that_the_disk_refuses_ends_the_training(broken: int, tmp_path: Path, shards: str) -> None:
    """It would go on for hours, and meet the same at its end."""
    assignment = trials.assignment(shards, trials.settings("pretrain"))
    with pytest.raises(DiskError, match=SENTENCES[broken]):
        run_stage("pretrain", assignment, Context(str(tmp_path / "checkpoints" / "t"), checkpoint_seconds=0))


def test_checkpoint_in_the_background_that_the_disk_refuses_is_told_by_the_next(broken: int, tmp_path: Path) -> None:
    writer = BackgroundWriter()
    writer.save(str(tmp_path / "latest.pt"), {"step": 1})
    with pytest.raises(DiskError):
        writer.save(str(tmp_path / "latest.pt"), {"step": 2})


def test_usage_is_that_of_the_disk_and_files_without_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)

    def stat(**changes: int) -> None:
        fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
        monkeypatch.setattr(os, "statvfs", lambda path: type("Stat", (), {**fields, **changes}))

    stat(f_frsize=1024, f_blocks=400, f_bfree=0, f_bavail=0, f_files=1000, f_favail=10)
    place = mount_point(tmp_path)
    assert sentence(errno.ENOSPC, str(place)).startswith(f"no space left on {place}: 400 KB of 400 KB used; free some")
    assert f"{place} (where {tmp_path} is): 400 KB" in sentence(errno.ENOSPC, str(tmp_path / "absent" / "file"))
    stat(f_frsize=1024, f_blocks=420, f_bfree=120, f_bavail=100, f_files=1000, f_favail=10)  # 20 are root's
    told = sentence(errno.ENOSPC, str(tmp_path), 500 * 1024)
    assert ": 300 KB of 400 KB used, and 500 KB more do not fit; " in told
    stat(f_frsize=1024, f_blocks=400, f_bfree=100, f_bavail=100, f_files=1000, f_favail=0)
    assert "1,000 of 1,000 files (inodes) are there" in sentence(errno.ENOSPC, str(tmp_path))


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1 KB"), (1536, "1.5 KB"), (3 * 2**30, "3 GB"), (2**50, "1,024 TB")],
)
def test_sizes_as_a_person_says_them(size: int, said: str) -> None:
    assert size_text(size) == said


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
from reports.storage import Storage
storage = Storage(sys.argv[1])
storage.write_bytes(bytes(2_000), "small")
try:
    storage.write_bytes(bytes(2_001), "large")
except OSError as error:
    print(type(error).__name__, error)
print(storage.list())
"""


def test_limit_of_file_sizes_is_said(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.startswith("DiskError a file of 1.95 KB is larger") and "`ulimit -f` is 1.95 KB" in printed
    assert printed.splitlines()[-1] == "['small']"


def test_storage_that_this_user_may_not_write_to_is_wrong_input_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    storage = Storage(str(tmp_path))
    with pytest.raises(UnusableError, match=f"may not write to {tmp_path}"):
        storage.write_bytes(b"", "a.json")
    with pytest.raises(ValueError, match=f"cannot write to the storage {tmp_path}: this user may not write"):
        storage.check_writable()


def wrapped(error: Exception) -> Exception:
    """As Ray hands on what a task met."""
    try:
        raise error
    except Exception as one:
        return RayTaskError("run", "Traceback ...", one).as_instanceof_cause()


def test_refusal_is_found_in_whatever_it_was_wrapped(tmp_path: Path) -> None:
    storage, refusal = Storage(str(tmp_path)), DiskError("no space left on /x")
    assert unusable(ValueError("something else"), storage) is None
    assert unusable(FileNotFoundError(errno.ENOENT, "No such file", "/x"), storage) is None
    inner = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))
    outer = RuntimeError("Tune failed")
    outer.__context__ = inner
    for error in (inner, outer, wrapped(inner), wrapped(wrapped(inner))):
        found = unusable(cloudpickle.loads(cloudpickle.dumps(error)) if error is not outer else error, storage)
        assert isinstance(found, DiskError) and str(tmp_path) in str(found) and "\n" not in str(found)
    for error in (refusal, wrapped(refusal), pickle.loads(pickle.dumps(refusal))):
        assert str(unusable(error, storage)) == "no space left on /x"
    assert "no space left on" in str(unusable(OutOfDiskError("Local disk is full"), storage))
    gang = RuntimeError("a worker failed")
    gang.worker_failures = {0: ConnectionError("peer lost"), 1: wrapped(refusal)}  # type: ignore[attr-defined]
    assert str(unusable(gang, storage)) == "no space left on /x"


def test_disk_without_room_is_named_where_ray_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, real = Storage(str(tmp_path / "runs")), os.statvfs
    assert full_disk(storage) is None

    def full(place: str) -> None:
        numbers = {"f_frsize": 1, "f_blocks": 9, "f_bfree": 0, "f_bavail": 0, "f_files": 0, "f_favail": 0}
        empty = type("Stat", (), numbers)
        monkeypatch.setattr(os, "statvfs", lambda path: empty if str(path) == place else real(path))

    for place, remedy in (("/dev/shm", "--shm-size"), (str(tmp_path), "another --storage")):
        full(place)
        found = full_disk(storage)
        assert found is not None and place in str(found) and remedy in str(found)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/usr")
    full("/usr")
    assert "set TMPDIR" in str(full_disk(storage)) and "/usr" in str(full_disk(storage))


def test_trial_that_a_disk_refused_is_not_said_to_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(job: dict[str, Any]) -> None:
        Telling(storage, "t", "now", "").tell(0.0, 0.0)
        raise wrapped(DiskError("no space left on /x"))

    storage = Storage(str(tmp_path))
    monkeypatch.setattr("study.execute.run_worker", refused)
    monkeypatch.setattr("study.execute.Job.model_validate", lambda job: type("Job", (), {**job, "model_dump": dict}))
    job = {"id": "t", "storage": storage.root, "workers": 1, "launched_at": "now", "crash_retries": 0}
    with pytest.raises(DiskError, match=r"^no space left on /x$") as told:
        run_trial({"job": job})
    causes, one = [], told.value.__cause__
    while one is not None and len(causes) < 10:
        causes.append(one)
        one = one.__cause__
    assert len(causes) < 10, "it is its own cause, at which Ray loops for ever"
    assert read_failures(storage) == ([], [])


def test_command_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["launch", "study/presets/digits.yaml", "--storage", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no space left on ") and said.count("\n") == 1


ODD = OutOfMemoryError("2 workers were killed\nOOM kill reason: " + "x" * 5000)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            ODD,
            1,
            "error: Ray failed with OutOfMemoryError: 2 workers were killed; what is finished is kept: start",
        ),
        (wrapped(ODD), 1, "error: Ray failed with OutOfMemoryError: 2 workers were killed; what is finished is kept"),
        (wrapped(ValueError("found 3")), 2, "error: found 3\n"),
        (wrapped(DiskError("no space left on /x")), 1, "error: no space left on /x\n"),
    ],
)
def test_error_of_ray_is_one_sentence(
    raised: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr("study.cli.load_study", broken)
    assert main(["status", "study/presets/digits.yaml"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(said) and printed.count("\n") == 1


def test_error_of_our_own_code_is_none_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise KeyError("mistake")

    monkeypatch.setattr("study.cli.load_study", broken)
    with pytest.raises(KeyError, match="mistake"):
        main(["status", "study/presets/digits.yaml"])
