"""Files of a storage that a disk, an editor or another program has changed: named, and everything else goes on."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import synthetic
from datasets.manifest import read_manifest
from datasets.typed_files import BadFileError
from reports.progress import read_progress, read_progresses
from reports.storage import Storage
from reports.stored import read_failures, read_records, write_record
from studies import tiny
from study.claim import read_claim
from study.cli import main
from study.gang import _nodes_told
from study.grid import expand
from study.load import load_study, parse_study
from study.plan import ExpectedImages, make_plan
from study.search import JOURNAL, Searches
from study.throughput import read_calibrations

GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "text": b'"x"',
    "cut off": b'{"share": 0.5',
    "deep": b"[" * 50_000,
    "deep objects": b'{"a":' * 50_000,
    "not UTF-8": b'{"share": "\xff"}',
    "zeros": bytes(300),
    "half a character": b'{"share": "\\ud800"}',
    "a long number": b"1" * 10_000,
}


def problem_of(found: tuple[Any, Any]) -> str:
    read, [problem] = found
    assert not read
    return f"{problem.path}: {problem.reason}"


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r".") as refused:
        read()
    return str(refused.value)


READERS: dict[str, Callable[[Storage], str]] = {
    "records/t.json": lambda storage: problem_of(read_records(storage)),
    "checkpoints/t/failure.json": lambda storage: problem_of(read_failures(storage)),
    "checkpoints/t/progress.json": lambda storage: problem_of(read_progresses(storage, ["t"])),
    "calibrations/t.json": lambda storage: problem_of(read_calibrations(storage)),
    "data/t/manifest.json": lambda storage: refusal(lambda: read_manifest(storage.uri("data", "t"))),
}


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("path", READERS)
def test_garbage_is_named_with_a_reason(tmp_path: Path, path: str, content: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(GARBAGE[content], path)
    told = READERS[path](storage)
    assert path.rpartition("/")[2] in told and 30 < len(told) < 1000


@pytest.mark.parametrize("content", GARBAGE)
def test_what_only_informs_counts_for_nothing_where_it_is_garbage(tmp_path: Path, content: str) -> None:
    storage, note = Storage(str(tmp_path)), ("checkpoints", "t", "nodes.json")
    storage.write_bytes(GARBAGE[content], *note)
    storage.write_bytes(GARBAGE[content], "lease", "claim.json")
    assert _nodes_told(storage, note) == (set() if content == "a list" else None)
    claim = read_claim(storage, "claim")
    assert claim is not None and claim.held and claim.name == "claim" and not claim.since


def test_a_claim_under_another_name_is_nobodys(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    content = {"study": "s", "host": "h", "pid": 1, "process": "", "since": "2026", "name": "../x", "held": False}
    storage.write_bytes(json.dumps(content).encode(), "lease", "claim.json")
    claim = read_claim(storage, "claim")
    assert claim is not None and claim.name == "claim" and claim.held


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for path in READERS:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(278 * 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in READERS.values():
        assert "has 278,000,000 bytes; expected at most" in read(storage)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.parametrize("path", [path for path in READERS if path.endswith(("t.json", "failure.json"))])
@pytest.mark.timeout(20)
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, path: str) -> None:
    target = tmp_path / path
    target.parent.mkdir(parents=True)
    os.mkfifo(target)
    assert "is not a file" in READERS[path](Storage(str(tmp_path)))
    target.unlink()
    target.mkdir()
    assert "is not a file" in READERS[path](Storage(str(tmp_path)))


ODD: dict[str, tuple[tuple[str, ...], object]] = {
    "settings.optimization: Input": (("spec", "settings", "optimization"), 0.1),
    "global_batch_size": (("spec", "settings", "optimization"), {"global_batch_size": "x"}),
    "device_seconds": (("cost", "device_seconds"), 1e308),
    "train_flops": (("cost", "train_flops"), 1e300),
    "finite numbers only": (("spec", "settings", "temperature"), 10**40),
    "year 9999": (("finished_at",), "9999-12-31T23:59:59-12:00"),
    "at most 200 characters": (("spec", "parent"), "x" * 300),
}


@pytest.mark.parametrize("reason", ODD)
def test_a_record_with_values_that_cannot_be_is_listed(tmp_path: Path, reason: str) -> None:
    (path, value), content = ODD[reason], synthetic.plain("t", label_fraction=0.1)
    target = content
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    storage = Storage(str(tmp_path))
    storage.write_bytes(json.dumps(content).encode(), "records/t.json")
    assert reason.partition(":")[0].rpartition(".")[2] in READERS["records/t.json"](storage)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    text = json.dumps(synthetic.plain("t")).replace('"id": "t"', '"id": "u", "id": "t"')
    storage.write_bytes(text.encode(), "records/t.json")
    assert "has the key 'id' twice" in READERS["records/t.json"](storage)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("files", 0, "name"), "../../x.parquet"),
        (("files", 0, "rows"), 97),
        (("files", 0, "first_label_rank"), None),
        (("files", 0, "first_label_rank"), "0.5"),
        (("files", 1, "first_position"), 90),
        (("row_group_rows",), 0),
        (("test_images",), 0),
        (("labelled_images",), 139),
        (("mean_pixels",), 1e308),
        (("classes",), ["one"]),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    shards: str, tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    plain = json.loads(Path(shards, "manifest.json").read_bytes())
    del plain["sha256"]  # as in older ones
    target = plain
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"manifest\.json at .* is damaged, or not a manifest of this version: "):
        read_manifest(str(tmp_path))


def test_keys_of_another_version_in_progress_are_passed_over(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(b'{"share": 0.5, "updated_at": 1e9, "speed": [1]}', "checkpoints", "t", "progress.json")
    known = read_progress(storage, "t")
    assert known is not None and known.share == 0.5


@pytest.mark.parametrize("value", ["null", "2", "-1", "1e999", '"0.5x"', "NaN"])
def test_a_share_that_is_none_is_named(tmp_path: Path, value: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(f'{{"share": {value}, "updated_at": 1}}'.encode(), "checkpoints", "t", "progress.json")
    with pytest.raises(BadFileError, match=r"progress\.json: share: .*; delete or restore it"):
        read_progress(storage, "t")


@pytest.mark.parametrize("command", ["plan", "status", "report", "launch"])
def test_commands_go_on_beside_bad_files_and_name_them(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "study.yaml", Storage(str(tmp_path / "runs"))
    file.write_text(yaml.safe_dump(tiny()))
    first, second, *_ = expand(load_study(file)).specs
    bad = [f"records/{first}.json", f"checkpoints/{second}/failure.json", f"checkpoints/{second}/progress.json"]
    for path in [*bad, "calibrations/here.json", "lease/old.json"]:
        storage.write_bytes(b"{}", path)
    write_record(storage, synthetic.record("other"))
    further = {"launch": ["--dry-run"], "report": ["-o", str(tmp_path / "page.html")]}.get(command, [])
    code = main([command, str(file), "--storage", storage.root, *further])
    told = capsys.readouterr()
    assert code == {"status": 1}.get(command, 0), told.err
    assert f"not a record: {storage.root}/records/{first}.json: format: Field required" in told.err
    assert ("calibrations/here.json" in told.err) == (command == "plan")
    assert (bad[1] in told.err and bad[2] in told.err) == (command == "status")
    if command == "report":
        assert first in (tmp_path / "page.html").read_text()


def searched(storage: Storage) -> Any:
    """The choice of a search, of which a sample runs."""
    plain = tiny(stages={"supervised": tiny()["stages"]["supervised"]})
    plain["stages"]["supervised"]["search"] = {"learning_rate": {"log": [0.01, 0.3]}, "trials": 5}
    study = parse_study(plain)
    [choice] = make_plan(study, ExpectedImages.of(study), frozenset()).open_choices
    Searches(storage).ask(choice)
    return choice


LINES = [
    "null",
    "{}",
    "[]",
    "7",
    '{"op_code": 99, "worker_id": "x"}',
    '{"op_code": 4, "worker_id": "x", "study_id": 7}',
]
LINES += ['{"op_code": 6, "worker_id": "x", "trial_id": 0, "state": 1, "values": null}', "x", "", "[" * 50_000]
LINES += ['{"op_code": 6, "worker_id": "x", "trial_id": 5, "state": 1, "values": [1.0]}', "1" * (2 * 2**20)]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_line_of_the_journal_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    storage = Storage(str(tmp_path))
    choice = searched(storage)
    journal = tmp_path / "/".join(JOURNAL)
    before = journal.read_text()
    journal.write_text(f"{before}{line}\n{before.splitlines()[-1]}\n")
    number = len(before.splitlines()) + 1
    with pytest.raises(BadFileError, match=rf"journal\.log: line {number} .*begin anew.*; delete or restore") as told:
        Searches(storage).samples(choice)
    assert len(str(told.value)) < 1000


def test_a_line_that_was_cut_off_is_not_yet_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    choice = searched(storage)
    journal = tmp_path / "/".join(JOURNAL)
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    assert len(Searches(storage).samples(choice)) == 1
    assert Searches(storage).ask(choice) == 1 and len(Searches(storage).samples(choice)) == 2
