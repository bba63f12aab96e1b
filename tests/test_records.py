"""Records and storage: what is written is read back, and nothing invalid becomes a number."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

import synthetic
from reports.records import Failure, Record
from reports.storage import Storage
from reports.stored import (
    clear_failure,
    read_failures,
    read_record,
    read_records,
    record_ids,
    write_failure,
    write_record,
)


def failure(trial_id: str, attempts: int = 1) -> Failure:
    return Failure(
        id=trial_id,
        error_type="RuntimeError",
        message="out of memory",
        traceback="Traceback",
        host="node-1",
        failed_at=datetime(2026, 1, 5, tzinfo=UTC),
        attempts=attempts,
    )


def test_record_is_read_back_as_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "new" / "runs"))
    written = synthetic.record("a", head_layer=1, label_fraction=0.1)
    write_record(storage, written)
    assert read_record(storage, "a") == written
    assert record_ids(storage) == {"a"}
    assert [path.name for path in (tmp_path / "new" / "runs" / "records").iterdir()] == ["a.json"]


def test_record_is_never_changed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_record(storage, synthetic.record("a", top1=0.5))
    write_record(storage, synthetic.record("a", top1=0.5))
    with pytest.raises(ValueError, match="never changed"):
        write_record(storage, synthetic.record("a", top1=0.6))
    assert read_record(storage, "a").metrics["top1"] == 0.5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metrics", "top1"), float("nan")),
        (("metrics", "top1"), 57.9),
        (("metrics", "top1"), "0.5"),
        (("cost", "wall_seconds"), float("inf")),
        (("cost", "images"), -1),
        (("spec", "settings", "temperature"), float("nan")),
        (("spec", "stage"), "finetuned"),
        (("id",), "../a"),
        (("format",), 2),
        (("started_at",), "2026-01-05T08:00:00"),
        (("surprise",), 1),
    ],
)
def test_invalid_record_is_refused(path: tuple[str, ...], value: object) -> None:
    content = synthetic.plain("a")
    target = content
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(ValidationError):
        Record.model_validate(content)
    with pytest.raises(ValidationError):
        Record.model_validate_json(json.dumps(content))


PAPERS_GAPS = {
    "spec": {"seed": None},
    "model": {"parameters": None},
    "cost": {"wall_seconds": None, "device_seconds": None, "sessions": None},
    "resources": None,
    "environment": None,
    "started_at": None,
    "finished_at": None,
}


def test_a_paper_may_leave_out_what_papers_do_not_state(tmp_path: Path) -> None:
    content = {**synthetic.plain("a"), "source": "paper"}
    gaps = {key: {**content[key], **gap} if isinstance(gap, dict) else gap for key, gap in PAPERS_GAPS.items()}
    record = Record.model_validate({**content, **gaps})
    write_record(Storage(str(tmp_path)), record)
    assert read_record(Storage(str(tmp_path)), "a") == record


@pytest.mark.parametrize("key", PAPERS_GAPS)
def test_a_run_leaves_out_nothing(key: str) -> None:
    content, gap = synthetic.plain("a"), PAPERS_GAPS[key]
    named = f"{key}.{next(iter(gap))}" if isinstance(gap, dict) else key
    content[key] = {**content[key], **gap} if isinstance(gap, dict) else gap
    with pytest.raises(ValidationError, match=f"a run's record leaves out {named}"):
        Record.model_validate(content)


@pytest.mark.parametrize("key", ["metrics", "spec", "data", "id"])
def test_a_paper_leaves_out_nothing_else(key: str) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate({**synthetic.plain("a"), "source": "paper", key: None})


def test_model_copy_cannot_smuggle_in_nan(tmp_path: Path) -> None:
    bad = synthetic.record("a").model_copy(update={"metrics": {"top1": float("nan")}})
    with pytest.raises(ValidationError):
        write_record(Storage(str(tmp_path)), bad)
    assert not (tmp_path / "records").exists()


def test_bad_files_are_listed_and_left_out(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_record(storage, synthetic.record("good"))
    text = (tmp_path / "records" / "good.json").read_text()
    (tmp_path / "records" / "cut.json").write_text(text[:300])
    (tmp_path / "records" / "foreign.json").write_text('{"accuracy": 1.0}')
    (tmp_path / "records" / "nan.json").write_text(
        json.dumps({**synthetic.plain("nan"), "metrics": {"top1": float("nan")}})
    )
    (tmp_path / "records" / "renamed.json").write_text(text)
    (tmp_path / "records" / "binary.json").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "records" / "readme.txt").write_text("not a record")
    records, problems = read_records(storage)
    assert [record.id for record in records] == ["good"]
    assert sorted(Path(problem.path).stem for problem in problems) == ["binary", "cut", "foreign", "nan", "renamed"]
    assert all(problem.reason for problem in problems)
    assert "top1" in next(problem.reason for problem in problems if problem.path.endswith("nan.json"))
    with pytest.raises(ValueError, match="not a record"):
        read_record(storage, "cut")


def test_only_wanted_records_are_read_in_order(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("c", "a", "b"):
        write_record(storage, synthetic.record(name))
    (tmp_path / "records" / "broken.json").write_text("{")
    records, problems = read_records(storage, ids=["c", "a", "absent"])
    assert ([record.id for record in records], problems) == (["a", "c"], [])


def test_many_records_are_all_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    (tmp_path / "records").mkdir()
    for number in range(150):
        text = synthetic.record(f"t{number:03}").model_dump_json()
        (tmp_path / "records" / f"t{number:03}.json").write_text(text)
    records, problems = read_records(storage)
    assert [record.id for record in records] == [f"t{number:03}" for number in range(150)]
    assert problems == []


def test_absent_record_and_storage(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "absent"))
    assert read_records(storage) == ([], [])
    assert read_failures(storage) == ([], [])
    assert record_ids(storage) == set()
    with pytest.raises(FileNotFoundError, match="no record yet"):
        read_record(storage, "a")
    assert not (tmp_path / "absent").exists()


def test_failure_is_replaced_and_cleared(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_failure(storage, failure("a", attempts=1))
    write_failure(storage, failure("a", attempts=2))
    storage.write_bytes(b"weights", "checkpoints", "b", "latest", "model.pt")
    storage.write_bytes(b"{", "checkpoints", "c", "failure.json")
    failures, problems = read_failures(storage)
    assert [(one.id, one.attempts) for one in failures] == [("a", 2)]
    assert [Path(problem.path).parent.name for problem in problems] == ["c"]
    clear_failure(storage, "a")
    clear_failure(storage, "a")
    assert read_failures(storage, ids=["a", "b"]) == ([], [])


def test_storage_lists_and_deletes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "runs"))
    storage.write_bytes(b"1", "data", "digits", "b.parquet")
    storage.write_bytes(b"2", "data", "digits", "a.parquet")
    storage.write_bytes(b"3", "data", "digits", "a.parquet")
    assert storage.list("data", "digits") == ["a.parquet", "b.parquet"]
    assert storage.read_bytes("data/digits/a.parquet") == b"3"
    assert storage.uri("data", "digits") == str(tmp_path / "runs" / "data" / "digits")
    assert storage.exists("data", "digits")
    storage.delete("data", "digits")
    storage.delete("data", "digits")
    assert not storage.exists("data", "digits")
    assert storage.list("data", "digits") == []


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(b"old", "records", "a.json")
    with pytest.raises(TypeError):
        storage.write_bytes("not bytes", "records", "a.json")  # type: ignore[arg-type]
    assert storage.read_bytes("records", "a.json") == b"old"
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["a.json"]


def test_unfinished_writes_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / ".a.json.0f3c").write_text("{")
    assert record_ids(Storage(str(tmp_path))) == set()


def test_file_url_is_the_same_storage(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write_bytes(b"x", "a")
    storage = Storage(tmp_path.as_uri())
    assert storage.read_bytes("a") == b"x"
    assert storage.root == str(tmp_path)


@pytest.mark.parametrize("parts", [("..", "a"), ("records", "../../a"), ("",), ("records//a",)])
def test_paths_stay_inside_the_storage(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not a path inside the storage"):
        Storage(str(tmp_path)).path(*parts)


def test_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    for place in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        with pytest.raises(ValueError, match="needs a folder where there is a file"):
            Storage(str(place))


def test_check_writable(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "runs"))
    storage.check_writable()
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to the storage .*Expected"):
        storage.check_writable()


@pytest.mark.parametrize("uri", ["", "nosuchscheme://bucket/x"])
def test_unknown_storage(uri: str) -> None:
    with pytest.raises(ValueError, match="storage"):
        Storage(uri)
