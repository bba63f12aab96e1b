"""What a launch on a cluster takes along, and what is refused before anything is sent."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from datasets.manifest import read_manifest
from object_store import ObjectStore
from studies import tiny
from study.cli import main
from study.load import load_study, study_text
from study.parcel import STUDY_FILE, job_variables, write_tree

PRESETS = sorted((Path(__file__).resolve().parents[1] / "study" / "presets").glob("*.yaml"))
NOT_UP = "--cluster nowhere.yaml: there is no such file"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_study_that_travels_is_the_one_that_is_here(preset: Path, tmp_path: Path) -> None:
    write_tree(tmp_path, study_text(preset))
    assert load_study(tmp_path / STUDY_FILE) == load_study(preset)


def test_overrides_change_what_traveled_as_they_change_what_is_here(tmp_path: Path) -> None:
    preset = next(path for path in PRESETS if path.stem == "imagenet-table3")
    overrides = ["pretrain.optimization.learning_rate=1e-4", "grid.seed=[0, 1]", "execution.workers={default: 2}"]
    write_tree(tmp_path, study_text(preset))
    traveled = load_study(tmp_path / STUDY_FILE, overrides)
    assert traveled == load_study(preset, overrides) != load_study(preset)


def test_numbers_and_texts_that_look_like_them_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    text = (
        yaml.safe_dump(tiny(name="NAME")).replace("NAME", "'1e-4'").replace("learning_rate: 0.3", "learning_rate: 3e-6")
    )
    file.write_text(text)
    copy = tmp_path / "copy.yaml"
    copy.write_text(study_text(file))
    study = load_study(copy)
    assert study == load_study(file) and study.name == "1e-4" and study.stages.pretrain is not None
    assert study.stages.pretrain.optimization.learning_rate == 3e-6


def test_code_travels_and_nothing_compiled(tmp_path: Path) -> None:
    write_tree(tmp_path, "name: a\n")
    assert {path.name for path in tmp_path.iterdir()} == {"datasets", "reports", "study", "trainables", STUDY_FILE}
    assert (tmp_path / "study" / "__main__.py").is_file() and not list(tmp_path.rglob("__pycache__"))


def test_of_the_environment_only_the_variables_of_nccl_travel() -> None:
    here = {"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "eth0", "AWS_SECRET_ACCESS_KEY": "secret", "PATH": "/bin"}
    variables = job_variables("a-job", {**here, "LABELSCALE_JOB": "another"})
    assert {name: variables.get(name) for name in here} == {
        "NCCL_DEBUG": "INFO",
        "NCCL_SOCKET_IFNAME": "eth0",
        "AWS_SECRET_ACCESS_KEY": None,
        "PATH": None,
    }
    assert variables["LABELSCALE_JOB"] == "a-job"


def study_of(folder: Path, source: str | Path, **data: Any) -> Path:
    """A study of 270 training images in two classes."""
    file = folder / "study.yaml"
    images = {"name": "noise", "source": str(source), "image_size": 8, "train_images": 270, "classes": 2}
    file.write_text(yaml.safe_dump(tiny(data={**images, **data})))
    return file


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a launch that is refused says; one that is not refused before finds no cluster."""
    capsys.readouterr()
    assert main(["launch", *map(str, arguments), "--cluster", "nowhere.yaml"]) == 2
    return capsys.readouterr().err


def test_folder_of_the_laptop_is_refused_with_the_command_that_makes_it_launch(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "my images"
    for name in ("light", "dark"):
        (images / name).mkdir(parents=True)
        for number in range(150):
            Image.new("RGB", (8, 8), (number + 100 * (name == "light"),) * 3).save(images / name / f"{number}.png")
    storage, file = store.bucket("folder"), study_of(tmp_path, images, label_seed=3)
    said = refusal(capsys, file, "--storage", storage)
    assert f"data.source is {str(images)!r}, a path of this machine" in said and not store.keys("folder")
    (command,) = re.findall(r"`python (-m study shard [^`]+)`", said)
    subprocess.run([sys.executable, *shlex.split(command)], check=True, capture_output=True, timeout=240)
    (folder,) = {key.split("/")[2] for key in store.keys("folder")}
    manifest = read_manifest(f"{storage}/data/{folder}")
    assert (manifest.label_seed, manifest.train_images) == (3, 270)
    assert NOT_UP in refusal(capsys, file, "--storage", storage)


def test_sources_that_a_cluster_may_read_are_not_refused(
    store: ObjectStore, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, shared = store.bucket("sources"), tmp_path / "shared"
    of_shards = {"name": "digits", "train_images": 200, "classes": 10}
    here = study_of(tmp_path, shards, **of_shards)
    assert f"Copy its shards into the storage, to {storage}/data/digits" in refusal(capsys, here, "--storage", storage)
    for source, root in (
        (f"file://{shards}", storage),  # all nodes have it
        ("s3://sources/elsewhere", storage),
        ("digits", storage),
        (shards, str(shared)),  # the storage is a folder that all nodes share
    ):
        assert NOT_UP in refusal(capsys, study_of(tmp_path, source, **of_shards), "--storage", root), source
    relative = study_of(tmp_path, "images", **of_shards)
    assert "absolute path of a folder that all nodes share" in refusal(capsys, relative, "--storage", shared)
    shutil.copytree(shards, shared / "data" / "digits")
    assert NOT_UP in refusal(capsys, relative, "--storage", shared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "stage"), "expected field=pattern words"),
        (("--budget-gpu-hours", "0"), "--budget-gpu-hours 0: expected 1e-06 to"),
        (("--budget-gpu-hours", "nan"), "--budget-gpu-hours nan: expected 1e-06 to"),
        (("--seeds", "0"), "--seeds 0: expected 1 to 100,000"),
        (("--dry-run",), "--dry-run reads the storage from here, and there is no folder /of/the/nodes"),
    ],
)
def test_options_that_cannot_be_used_are_refused_here(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_of(tmp_path, "digits")
    assert message in refusal(capsys, file, "--storage", "/of/the/nodes", *options)


def test_dry_run_of_a_launch_on_a_cluster_is_one_of_its_storage_and_asks_no_cluster(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, file = store.bucket("dry"), study_of(tmp_path, "digits", train_images=1438, classes=10)
    wanted = ["launch", str(file), "--storage", storage, "--only", "stage=pretrain", "--dry-run"]
    assert main(wanted) == 0
    here = capsys.readouterr().out
    assert main([*wanted, "--cluster", "nowhere.yaml"]) == 0
    assert capsys.readouterr().out == here and here.startswith("pretrain-") and not store.keys("dry")
