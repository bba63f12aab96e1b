"""What lies in a storage: records, failures, progress, leases, journals, calibrations; and price tables."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fuzz import mutate
from fuzz.inputs import Attack, run_all, run_command
from planted import study as planted_study
from reports.plain_yaml import read_yaml_file
from reports.prices import DEFAULT, read_prices
from reports.progress import read_progress
from reports.records import Failure, Record
from reports.storage import Storage
from reports.stored import read_failures, read_records, write_record
from reports.tables import trials
from studies import tiny, tiny_study
from study.claim import read_claim
from study.images import find_images
from study.load import parse_study
from study.plan import make_plan
from study.throughput import Calibration, Measurement, Throughput, read_calibrations

ID = "a-trial"


def some_records() -> list[dict[str, Any]]:
    """A valid record of each stage, as JSON."""
    found: dict[str, Record] = {}
    for record in planted_study(seeds=1):
        found.setdefault(record.spec.stage, record)
    return [json.loads(record.model_dump_json()) for record in found.values()]


def records(folder: Path) -> Attack:
    """Changed records are read; what is read must do for tables and predictions."""
    valid, storage = some_records(), Storage(str(folder / "runs"))
    (folder / "runs/records").mkdir(parents=True)
    study = tiny_study()
    planned = list(make_plan(study, find_images(study, storage), frozenset()).trials.values())

    def attack(draw: random.Random) -> str:
        record = draw.choice(valid)
        path = folder / f"runs/records/{record['id']}.json"
        path.write_bytes(mutate.as_json(draw, record))
        try:
            found, problems = read_records(storage)
            assert len(found) + len(problems) == 1, "a record is either read or listed"
            if found:
                trials(found)
                throughput = Throughput(found, [], "cpu")
                for trial in planned:
                    throughput.seconds(trial)
        finally:
            if path.exists():
                shutil.copy(path, folder / "input.json")
                path.unlink()
        return "read" if found else "refused"

    return attack


def _one_file(path: Path, valid: Any, read: Callable[[], object]) -> Attack:
    """An attack on one JSON file; None counts as refused."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def attack(draw: random.Random) -> str:
        path.write_bytes(mutate.as_json(draw, valid))
        return "refused" if read() is None else "read"

    return attack


def failures(folder: Path) -> Attack:
    storage = Storage(str(folder / "runs"))
    valid = Failure(
        id=ID,
        error_type="NonFiniteLossError",
        message="the loss is not finite",
        traceback="",
        host="here",
        failed_at=datetime(2026, 1, 1, tzinfo=UTC),
        attempts=1,
    )

    def read() -> object:
        found, problems = read_failures(storage, [ID])
        assert len(found) + len(problems) == 1
        return found or None

    return _one_file(folder / f"runs/checkpoints/{ID}/failure.json", json.loads(valid.model_dump_json()), read)


def progress(folder: Path) -> Attack:
    storage = Storage(str(folder / "runs"))
    valid = {"share": 0.5, "updated_at": 1.8e9, "launch": "2026-01-01T00:00:00+00:00", "node": "ab"}
    valid |= {"saved": 0.4, "ended": False}

    def read() -> object:
        known = read_progress(storage, ID)
        return None if known is None else f"{known.share:.0%} {known.is_of('2026-01-01T00:00:00+00:00')}"

    return _one_file(folder / f"runs/checkpoints/{ID}/progress.json", valid, read)


def leases(folder: Path) -> Attack:
    storage = Storage(str(folder / "runs"))
    valid = {"study": "s", "host": "h", "pid": 7, "process": "b p 7 1", "since": "2026-01-01T00:00:00+00:00"}
    valid |= {"job": "", "name": "claim", "held": True}
    return _one_file(folder / "runs/lease/claim.json", valid, lambda: str(read_claim(storage, "claim")))


def calibrations(folder: Path) -> Attack:
    storage, study = Storage(str(folder / "runs")), tiny_study()
    planned = list(make_plan(study, find_images(study, storage), frozenset()).trials.values())
    measured = [
        Measurement(
            architecture=one.spec.architecture,
            stage=one.spec.stage,
            batch=20,
            image_size=8,
            precision="float32",
            steps=3,
            seconds=0.5,
            flops=1e9,
        )
        for one in planned
    ]
    valid = Calibration(
        device="cpu",
        hardware="here",
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
        versions={"torch": "2"},
        measurements=tuple(measured),
    )

    def read() -> object:
        found, problems = read_calibrations(storage)
        assert len(found) + len(problems) == 1, "a calibration is either read or listed"
        throughput = Throughput([], found, "cpu", "here")
        return [throughput.seconds(trial) for trial in planned] if found else None

    return _one_file(folder / "runs/calibrations/here.json", json.loads(valid.model_dump_json()), read)


def prices(folder: Path) -> Attack:
    text, path = DEFAULT.read_text(encoding="utf-8"), folder / "prices.yaml"
    valid = read_yaml_file(DEFAULT)

    def attack(draw: random.Random) -> str:
        if draw.random() < 0.5:
            path.write_bytes(mutate.text(draw, text).encode("utf-8", "replace"))
        else:
            path.write_bytes(mutate.as_json(draw, valid))
        read_prices(path)
        return "read"

    return attack


def journals(folder: Path) -> Attack:
    """The journal of a search, in which whole lines of others may stand, or halves."""
    from study.search import JOURNAL, Searches

    made = tiny(stages={"supervised": tiny()["stages"]["supervised"]})
    made["stages"]["supervised"]["search"] = {"learning_rate": {"log": [0.01, 0.3]}, "trials": 5}
    study, storage = parse_study(made), Storage(str(folder / "runs"))
    [choice] = make_plan(study, find_images(study, storage), frozenset()).open_choices
    path = folder / "runs" / "/".join(JOURNAL)
    path.parent.mkdir(parents=True)
    searches = Searches(storage)
    for number in range(4):
        searches.tell(choice, searches.ask(choice), number / 4, "complete")
    searches.ask(choice)
    valid = path.read_bytes()

    def attack(draw: random.Random) -> str:
        lines = valid.splitlines(keepends=True)
        if draw.random() < 0.7:
            one = draw.randrange(len(lines))
            lines[one] = mutate.as_json(draw, json.loads(lines[one])) + draw.choice((b"\n", b""))
            path.write_bytes(b"".join(lines))
        else:
            path.write_bytes(mutate.raw(draw, valid))
        again = Searches(storage)
        again.samples(choice)
        again.ask(choice)
        return "read"

    return attack


def commands(folder: Path) -> Attack:
    """Whole commands on a storage in which one file is damaged."""
    file, runs = folder / "study.yaml", folder / "runs"
    file.write_text(yaml.safe_dump(tiny()))
    for plain in some_records():
        write_record(Storage(str(runs)), Record.model_validate(plain))
    study = tiny_study()
    ids = list(make_plan(study, find_images(study, Storage(str(runs))), frozenset()).trials)
    good = {path: path.read_bytes() for path in runs.glob("records/*")}
    names = [f"checkpoints/{id}/{name}.json" for id in ids[:2] for name in ("progress", "failure")]
    loose: dict[Path, Any] = {runs / name: {"share": 0.5, "updated_at": 1e9} for name in names}
    loose[runs / "calibrations/here.json"] = {"format": 1, "device": "cpu", "measurements": []}
    where, page = ["--storage", str(runs)], str(folder / "page.md")
    run_all([["plan", str(file), *where], ["launch", str(file), "--dry-run", *where]])
    run_all([["report", str(file), "-o", page, *where], ["explain", next(iter(good)).stem, *where]])

    def attack(draw: random.Random) -> str:
        path = draw.choice([*good, *loose])
        plain = json.loads(good[path]) if path in good else loose[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutate.as_json(draw, plain))
        shutil.copy(path, folder / "input.json")
        command = draw.choice(("plan", "status", "launch", "report", "explain"))
        further = {
            "launch": [str(file), "--dry-run"],
            "report": [str(file), "-o", page],
            "explain": [path.stem if path in good else ids[0]],
        }.get(command, [str(file)])
        try:
            return run_command([command, *further, *where])
        finally:
            path.unlink()
            if path in good:
                path.write_bytes(good[path])

    return attack
