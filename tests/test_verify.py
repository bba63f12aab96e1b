"""The command that compares everything in a storage with its checksums."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from datasets.manifest import read_manifest
from datasets.schema import MANIFEST_NAME
from digit_shards import digits, forget_checksums, write
from study.cli import main
from study.execute import run_worker
from test_job import job


@pytest.fixture(scope="module")
def finished(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with shards, a pretraining and its child."""
    storage = tmp_path_factory.mktemp("finished") / "runs"
    shutil.copytree(shards, storage / "data" / "digits")
    for stage in ("pretrain", "finetune"):
        run_worker(job(str(storage / "data" / "digits"), storage, stage))
    return storage


@pytest.fixture
def storage(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def test_storage_in_which_nothing_rotted(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}
    assert main(["verify", str(storage)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{storage}/data/digits: 3 shards as they were written",
        "2 records, 2 models as they were written",
    ]
    assert {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()} == before


def test_everything_that_rotted_is_named(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [model, other] = sorted(storage.glob("checkpoints/*/model.pt"))
    [record, _] = sorted(storage.glob("records/*.json"))
    damaged = [*sorted((storage / "data" / "digits").glob("t*-0000000000.parquet")), model]
    for path in damaged:
        flip(path)
    shutil.copy(storage / "data" / "digits" / "train-0000000096.parquet", other)
    assert main(["verify", str(storage)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for path in (*damaged, other):
        assert sum(line.startswith("damaged: ") and str(path) in line for line in lines) == 1
    assert len(lines) == 5 and lines[-1] == "2 records, 0 models as they were written"
    shutil.copy(other, model)
    record.write_text("{")
    main(["verify", str(storage)])
    assert f"damaged: {record} is not a record" in capsys.readouterr().out


def test_model_of_another_trial_is_found(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = storage.glob("checkpoints/*/model.pt")
    shutil.copy(one, other)
    assert main(["verify", str(storage)]) == 1
    assert f"damaged: {other} is another file than was meant" in capsys.readouterr().out
    other.unlink()  # to save room: nobody starts from it any more
    assert main(["verify", str(storage)]) == 0
    assert "2 records, 1 models" in capsys.readouterr().out


def test_old_shards_get_checksums_if_they_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = write(digits(), tmp_path / "shards")
    manifest, text = read_manifest(uri), Path(uri, MANIFEST_NAME).read_bytes()
    forget_checksums(uri)
    old = Path(uri, MANIFEST_NAME).read_bytes()
    shard = Path(uri, manifest.files[1].name)
    whole = shard.read_bytes()
    flip(shard)
    assert main(["verify", uri]) == 1
    assert re.search(rf"damaged: the shard {shard} .*: its SHA-256 is not", capsys.readouterr().out)
    assert Path(uri, MANIFEST_NAME).read_bytes() == old
    shard.write_bytes(whole)
    assert main(["verify", uri]) == 0
    assert (
        capsys.readouterr().out
        == f"{uri}: 3 shards as they were written, whose checksums were added to their manifest\n"
    )
    assert Path(uri, MANIFEST_NAME).read_bytes() == text
    assert main(["verify", uri]) == 0
    assert "added" not in capsys.readouterr().out


def test_old_records_do_not_tell_whether_models_are_theirs(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in storage.glob("records/*.json"):
        plain = json.loads(path.read_text())
        del plain["model"]["sha256"]
        path.write_text(json.dumps(plain))
    assert main(["verify", str(storage)]) == 0
    assert "2 of them are of records too old to name their model's checksum" in capsys.readouterr().out


def test_place_with_nothing_to_verify_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert f"{tmp_path} holds neither shards nor records" in capsys.readouterr().err
