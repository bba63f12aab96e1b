"""Models and checkpoints that rot, or that are others than were meant."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import flips
import trials
from datasets.checksums import DamagedError
from reports.records import Record
from reports.storage import Storage
from reports.stored import read_record, record_ids
from study.execute import run_worker
from test_job import job
from trainables.checkpoint import load_state, save_state
from trainables.context import Context
from trainables.stages import run_stage

EVERY_BYTE = {"model.pt": 0, "model.pt without a checksum": 9000, "latest.pt": 0}
"""In each kind of file, the most bits that may be flipped without a change of what is read, of one in every byte."""


@pytest.mark.parametrize("kind", EVERY_BYTE)
def test_no_bit_of_a_model_or_checkpoint_can_flip_unseen(tmp_path: Path, kind: str) -> None:
    path, read = flips.KINDS[kind](tmp_path / "trial")
    size = path.stat().st_size
    counts = flips.outcomes(path, read, [8 * byte + byte % 8 for byte in range(size)])
    assert counts.keys() <= {flips.REFUSED, flips.HARMLESS} and counts.total() == size > 2000
    assert counts[flips.HARMLESS] <= EVERY_BYTE[kind] and counts[flips.REFUSED] > size / 2


def test_sealed_file_is_read_by_torch_and_named_by_the_digest_of_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    sha256 = save_state(str(path), flips.small_state())
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for mapped in (False, True):
        module = torch.load(path, weights_only=True, mmap=mapped)["module"]
        assert module["kernel"].flatten().tolist() == list(range(24))
    assert load_state(str(path), sha256) is not None


@pytest.mark.parametrize("length", [0, 1, 21, 22, 100, 1000, -85, -64, -1])
def test_file_that_was_cut_short_or_goes_on_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.pt"
    save_state(str(path), flips.small_state())
    content = path.read_bytes()
    for changed in (content[:length], content + content[:length] + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(DamagedError, match=re.escape(str(path))):
            load_state(str(path))


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save([1, 2], path)
    with pytest.raises(DamagedError, match=r"model\.pt is not a readable checkpoint: it holds a list"):
        load_state(str(path))
    torch.save({"path": tmp_path}, path)
    with pytest.raises(DamagedError, match=r"model\.pt is not a readable checkpoint: Weights only load failed"):
        load_state(str(path))


@pytest.fixture(scope="module")
def pretrained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A storage with a finished pretraining, and its record."""
    folder = tmp_path_factory.mktemp("pretrained")
    planned = job(shards, folder, "pretrain")
    run_worker(planned)
    return folder, read_record(Storage(str(folder)), planned["id"])


def child(shards: str, storage: Path, parent: str) -> dict[str, Any]:
    planned = job(shards, storage, "finetune")
    assert planned["trial"]["parent"] == parent
    return planned


def test_child_starts_from_the_very_file_that_its_parents_record_names(
    shards: str, pretrained: tuple[Path, Record], tmp_path: Path
) -> None:
    folder, record = pretrained
    storage = tmp_path / "runs"
    shutil.copytree(folder, storage)
    model = storage / "checkpoints" / record.id / "model.pt"
    written = model.read_bytes()
    assert record.model.sha256 == hashlib.sha256(written).hexdigest()
    planned = child(shards, storage, record.id)

    other = load_state(str(model))
    assert other is not None
    other["module"] = {name: value + 1e-3 * value.is_floating_point() for name, value in other["module"].items()}
    found = save_state(str(model), other)  # whole, of the same shapes, and of another training
    with pytest.raises(
        ValueError, match=f"{re.escape(str(model))} is another file .* {found}, .* {record.model.sha256}"
    ):
        run_worker(planned)
    model.write_bytes(written[:5000] + bytes([written[5000] ^ 8]) + written[5001:])
    with pytest.raises(ValueError, match=f"{re.escape(str(model))} is damaged.*delete the parent's record"):
        run_worker(planned)
    assert record_ids(Storage(str(storage))) == {record.id}

    model.write_bytes(written)
    run_worker(planned)
    assert record_ids(Storage(str(storage))) == {record.id, planned["id"]}


def test_child_of_a_parent_from_before_there_were_checksums_is_trained(
    shards: str, pretrained: tuple[Path, Record], tmp_path: Path
) -> None:
    folder, record = pretrained
    storage = tmp_path / "runs"
    shutil.copytree(folder, storage)
    model, path = storage / "checkpoints" / record.id / "model.pt", storage / "records" / f"{record.id}.json"
    torch.save(load_state(str(model)), model)
    old = json.loads(path.read_text())
    del old["model"]["sha256"]
    path.write_text(json.dumps(old))
    planned = child(shards, storage, record.id)
    run_worker(planned)
    assert planned["id"] in record_ids(Storage(str(storage)))


class DyingAtTheEndError(RuntimeError):
    """A process ends when its last checkpoint is written and its model is not."""


def interrupted(shards: str, folder: Path, seed: int = 1) -> Any:
    """A pretraining that leaves its last checkpoint and nothing else; returns its assignment."""
    assignment = trials.assignment(shards, trials.settings("pretrain"))
    assignment = type(assignment)(**{**vars(assignment), "seed": seed})

    class Dying(Context):
        def save_model(self, state: dict[str, Any]) -> None:
            self.finish_writes()
            raise DyingAtTheEndError

    with pytest.raises(DyingAtTheEndError):
        run_stage("pretrain", assignment, Dying(str(folder)))
    return assignment


@pytest.mark.parametrize("damage", ["rots", "is cut", "is of another trial"])
def test_trial_whose_checkpoint_cannot_be_used_says_so_and_begins_anew(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    assignment = interrupted(shards, tmp_path / "trial")
    path = tmp_path / "trial" / "latest.pt"
    content = path.read_bytes()
    if damage == "rots":
        path.write_bytes(content[:9000] + bytes([content[9000] ^ 1]) + content[9001:])
    elif damage == "is cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        interrupted(shards, tmp_path / "other", seed=2)
        shutil.copy(tmp_path / "other" / "latest.pt", path)
    with caplog.at_level(logging.WARNING):
        again = run_stage("pretrain", assignment, Context(str(tmp_path / "trial")))
    assert re.search(rf"trial begins anew, .*{re.escape(str(path))}", caplog.text)
    assert again.progress.sessions == 1 and again.progress.step == 6
    run_stage("pretrain", assignment, Context(str(tmp_path / "whole")))
    anew, whole = trials.model(tmp_path / "trial")["module"], trials.model(tmp_path / "whole")["module"]
    assert all(torch.equal(anew[name], whole[name]) for name in whole)
