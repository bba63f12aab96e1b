"""Damage to what a study's choices and its report rest on: journals, records and marks of whole studies."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from fuzz import mutate
from fuzz.inputs import Attack
from planted import study as planted_study
from reports.export import as_csv
from reports.markdown import as_markdown
from reports.next_experiment import ReportedTrial
from reports.page import build_page
from reports.results import Results, StudyInfo
from reports.storage import Storage
from reports.stored import read_records, record_ids
from simulated import SECONDS, simulate
from studies import tiny, tiny_study
from study.evidence import StoredEvidence
from study.plan import ExpectedImages, make_plan


def explorations(folder: Path) -> Attack:
    """A study that explored its grid is planned with a damaged journal or record, and its exploration opened."""
    from study.exploration import advance, open_exploration

    storage = Storage(str(folder / "runs"))
    study = tiny_study(
        stages={name: tiny()["stages"][name] for name in ("pretrain", "finetune")},
        grid={"architecture": ["r10w0.0625", "r10w0.125"], "label_fraction": [0.1, 0.5], "head_layer": [0, 1, 2]},
        explore={"budget_device_hours": 12 * SECONDS / 3600, "patience": 20},
        dev={"folds": 2, "few_labels": 0},
    )
    simulate(study, storage, lambda spec: 0.5 + len(spec.architecture) / 100, seconds=SECONDS)
    images, journal = ExpectedImages.of(study), folder / "runs/search/journal.log"
    paths = [journal, *sorted((folder / "runs/records").glob("*.json"))[:6]]
    good = {path: path.read_bytes() for path in paths}

    def attack(draw: random.Random) -> str:
        path = journal if draw.random() < 0.6 else draw.choice(paths)
        lines = good[path].splitlines(keepends=True) if path == journal else [good[path]]
        one = draw.randrange(len(lines))
        lines[one] = mutate.as_json(draw, json.loads(lines[one])) + b"\n"
        path.write_bytes(b"".join(lines))
        shutil.copy(path, folder / "input.json")
        try:
            evidence = StoredEvidence(storage, record_ids(storage))
            make_plan(study, images, evidence.done, evidence)
            exploration = open_exploration(study, images, evidence, lambda trial: 1.0, dry=False)
            advance(exploration, evidence, ())
        finally:
            for damaged in (path, journal):
                damaged.write_bytes(good[damaged])
        return "read"

    return attack


def pages(folder: Path) -> Attack:
    """Reports are built of records whose values are odd, as far as the schema lets them pass."""
    records, storage = planted_study(seeds=1)[:20], Storage(str(folder / "runs"))
    trials = [ReportedTrial(one.id, one.spec.stage, "r18", 0.1, 1, None, 9, None, 1e12, one.id) for one in records]
    study = StudyInfo("odd", "What is shown?", {trial.id: trial for trial in trials})
    plain = [json.loads(record.model_dump_json()) for record in records]

    def attack(draw: random.Random) -> str:
        for _ in range(draw.choice((1, 2, 5))):
            number = draw.randrange(len(plain))
            path = folder / f"runs/records/{records[number].id}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(20):
                path.write_bytes(json.dumps(mutate.plain(draw, plain[number])).encode("utf-8", "surrogatepass"))
                if read_records(storage, [records[number].id])[0]:
                    break
        found, problems = read_records(storage)
        shutil.rmtree(folder / "input", ignore_errors=True)
        shutil.move(folder / "runs/records", folder / "input")
        changed = {record.id: record for record in found}
        results = Results(study, [changed.get(one.id, one) for one in records], problems=problems)
        assert build_page(results) and as_markdown(results) and as_csv(results.table)
        return "read" if found else "refused"

    return attack
