"""What `make chaos` compares: a check that cannot fail is no check."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import planted
from chaos import kills
from chaos.compare import compare
from chaos.launches import Launch, Place
from chaos.promises import Findings, all_held, table
from chaos.round import KINDS
from chaos.study_files import VARIANTS, study
from reports.storage import Storage
from reports.stored import write_record
from study.load import parse_study

HOUR_LATER = "2031-01-01T00:00:00Z"


def storage_in(folder: Path) -> Path:
    """A storage with a record and its weights."""
    record = planted.study(seeds=1)[0]
    write_record(Storage(str(folder)), record)
    path = folder / "checkpoints" / record.id / "model.pt"
    path.parent.mkdir(parents=True)
    torch.save({"module": {"weight": torch.arange(4.0), "nan": torch.tensor(float("nan"))}}, path)
    return folder


def change_record(storage: Path, change: Callable[[dict[str, object]], object]) -> None:
    [path] = storage.glob("records/*.json")
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def set_time(plain: dict[str, object]) -> None:
    plain |= {"finished_at": HOUR_LATER, "cost": None, "environment": {"host": "another"}}


def found_in(tmp_path: Path, change: Callable[[Path], object]) -> Findings:
    one, other = storage_in(tmp_path / "one"), storage_in(tmp_path / "other")
    change(one)
    findings = Findings()
    compare(one, other, findings)
    return findings


def test_equal_storages_are_equal_whatever_time_host_and_cost_they_note(tmp_path: Path) -> None:
    findings = found_in(tmp_path, lambda storage: change_record(storage, set_time))
    assert all_held(findings) and findings.tried["records"] == 2 and findings.tried["weights"] == 1


def weights(storage: Path, module: dict[str, torch.Tensor]) -> None:
    [path] = storage.glob("checkpoints/*/model.pt")
    torch.save({"module": {"weight": torch.arange(4.0), "nan": torch.tensor(float("nan")), **module}}, path)


@pytest.mark.parametrize(
    ("change", "promise", "words"),
    [
        (lambda one: next(one.glob("records/*")).unlink(), "records", "is lost"),
        (lambda one: next(one.glob("records/*")).write_text("{"), "records", "no JSON"),
        (lambda one: (one / "records/more.json").write_text("{}"), "records", "more.json"),
        (lambda one: change_record(one, lambda plain: plain["metrics"].update(top1=0.1234)), "records", "metrics.top1"),
        (lambda one: change_record(one, lambda plain: plain["history"].append({})), "records", "history"),
        (lambda one: change_record(one, lambda plain: plain.pop("data")), "records", "record.data is missing"),
        (lambda one: next(one.glob("checkpoints/*/model.pt")).unlink(), "weights", "are lost"),
        (lambda one: next(one.glob("checkpoints/*/model.pt")).write_bytes(b"no"), "weights", "cannot be read"),
        (lambda one: weights(one, {"weight": torch.tensor([0.0, 1.0, 2.0, 3.0000002])}), "weights", "other values"),
        (lambda one: weights(one, {"weight": torch.tensor([-0.0, 1.0, 2.0, 3.0])}), "weights", "other values"),
        (lambda one: weights(one, {"weight": torch.arange(4.0).reshape(2, 2)}), "weights", "other values"),
        (lambda one: weights(one, {"more": torch.zeros(1)}), "weights", "other names"),
    ],
)
def test_change_of_a_record_or_weight_is_found(
    tmp_path: Path, change: Callable[[Path], object], promise: str, words: str
) -> None:
    findings = found_in(tmp_path, change)
    [broken] = findings.broken
    assert broken.startswith(promise) and words in broken
    assert findings.tried[promise] == findings.held[promise] + 1 and not all_held(findings)
    assert any(line.endswith("NOT HELD") for line in table(findings))


def ended(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, expected: set[int]) -> Findings:
    """What is found of a launch that is this Python code; nothing but itself is seen or killed."""
    monkeypatch.setattr("chaos.launches.others", list)
    monkeypatch.setattr("chaos.launches.listening", list)
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: popen([sys.executable, "-c", code], **how))
    place = Place(tmp_path / "study.yaml", str(tmp_path / "runs"), tmp_path, ["a-trial"], 5.0)
    findings = Findings()
    Launch(place).end(findings, expected)
    return findings


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        ("import sys; sys.exit('failed: a-trial: NonFiniteLossError: at step 3')", []),
        ("import sys; sys.exit('error: no space left: 400 KB of 400 KB used')", []),
        ("import sys; sys.exit('1 of 1 trials have no record')", ["reason"]),
        ("import sys; sys.exit('failed: a-trial-too: NonFiniteLossError: at step 3')", ["reason"]),
        ("import sys; sys.exit('error: ' + 'x' * 1993)", []),
        ("import sys; sys.exit('error: ' + 'x' * 1995)", ["length"]),
        ("import sys; sys.exit('error: ' + 'x' * 1000 + '\\n' + 'y' * 1000)", ["length"]),
        ("raise RuntimeError", ["traceback", "reason"]),
        ("import sys; sys.exit('error: no\\n  File \"/a/b.py\", line 3, in train')", ["traceback"]),
        ("import faulthandler, os; faulthandler.enable(); os.abort()", ["exit code", "traceback"]),
        ("pass", ["exit code"]),
    ],
)
def test_end_of_a_launch_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, broken: list[str]
) -> None:
    findings = ended(tmp_path, code, monkeypatch, {1})
    assert [one.partition(":")[0] for one in findings.broken] == broken


def test_record_that_vanished_or_changed_after_an_attack_is_found(tmp_path: Path) -> None:
    place = Place(tmp_path / "study.yaml", str(storage_in(tmp_path / "runs")), tmp_path, [], 5.0)
    kept, findings = kills.records(place), Findings()
    kills.check_kept(place, kept, findings)
    assert all_held(findings) and findings.tried["kept"] == 1
    change_record(place.local, set_time)
    kills.check_kept(place, kept, findings)
    assert len(findings.broken) == 1


def test_kinds_of_rounds_name_studies_that_can_be_planned() -> None:
    assert {kind.variant for kind in KINDS.values()} == set(VARIANTS)
    for variant in VARIANTS:
        parse_study(study(variant))


def test_rounds_refuse_to_run_where_they_could_kill_others(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"kind": "kill", "seed": "0", "folder": str(tmp_path)}))
    refused = subprocess.run(
        [sys.executable, "-m", "chaos.round", str(spec)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "tests:.", "PATH": ""},
        timeout=60,
    )
    assert refused.returncode == 1 and "namespaces of its own" in refused.stderr
