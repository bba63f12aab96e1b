"""Who is on the same network as a launch, or on the same machine, can do nothing to it without its token."""

from __future__ import annotations

import ipaddress
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from strangers import HERE, ROOT, TOKEN, Machines, asked, environment, joined, kind, two_machines, wait_for

from studies import tiny

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def launch(machines: Machines, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A launch on `machine` while two workers train together; yields its home. Its user has tokens switched off."""
    folder = tmp_path_factory.mktemp("launch")
    stages = {"pretrain": tiny()["stages"]["pretrain"]}
    stages["pretrain"]["optimization"] |= {"epochs": 100_000}
    data = {"name": "digits", "source": shards, "image_size": 8, "train_images": 200, "classes": 10}
    study = tiny(stages=stages, data=data, execution={"workers": 2, "per_worker": {"CPU": 0.5}})
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    command = ["-m", "study", "launch", folder / "study.yaml", "--storage", folder / "runs"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            machines.inside("machine", sys.executable, *command),
            stdout=said,
            stderr=said,
            cwd=ROOT,
            env=environment(folder, TMPDIR=str(folder), RAY_AUTH_MODE="disabled"),
        )
    try:
        wait_for(lambda: any(folder.glob("runs/checkpoints/*/progress.json")) or process.poll() is not None, 240)
        assert process.poll() is None, (folder / "said").read_text()
        yield folder
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        for child in children:
            if child.is_running():
                child.kill()
        process.wait()


def test_launch_listens_on_the_loopback_address_only(machines: Machines, launch: Path) -> None:
    found = machines.listening()
    assert len(found) > 10
    assert {ip for ip, _ in found if not ipaddress.ip_address(ip).is_loopback} == set()


def test_stranger_reaches_nothing_of_a_launch(machines: Machines, launch: Path) -> None:
    ports = sorted({port for _, port in machines.listening()})
    assert set(asked(machines, "stranger", HERE, ports).values()) == {None}


def test_launch_does_nothing_without_its_token_on_its_own_machine_either(machines: Machines, launch: Path) -> None:
    workers = [one for one in psutil.process_iter() if "RayTrainWorker" in " ".join(one.cmdline())]
    theirs = {str(file.readlink()) for one in workers for file in Path(f"/proc/{one.pid}/fd").iterdir()}
    found = machines.listening()
    of_workers = {port for (_, port), socket in found.items() if socket in theirs}
    ports = sorted({port for _, port in found})
    kinds = {port: kind(answers) for port, answers in asked(machines, "machine", "127.0.0.1", ports).items() if answers}
    assert len(workers) == 2 and "refuses" in kinds.values()
    assert {port for port, found in kinds.items() if found == "else"} <= of_workers  # where they exchange gradients


def gcs_and_token(folder: Path) -> tuple[str, Path]:
    """The address of a launch's control store, and the file of its token, as its user can find both."""
    for process in psutil.process_iter():
        variables = process.environ() if process.name() == "raylet" else {}
        if variables.get("HOME") == str(folder):
            address, *_ = re.findall(r"--gcs-address=(\S+)", " ".join(process.cmdline()))
            return address, Path(variables["RAY_AUTH_TOKEN_PATH"])
    raise AssertionError("no raylet runs")


def test_launch_is_joined_with_its_token_only(machines: Machines, launch: Path, tmp_path: Path) -> None:
    address, token = gcs_and_token(launch)
    guessed = tmp_path / "guessed"
    guessed.write_text(TOKEN)
    as_it_is = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray would make the machine's own address of 127.0.0.1
    for variables in (
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(guessed)},
    ):
        assert not joined(machines, "machine", address, tmp_path, **variables, **as_it_is)
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **as_it_is}
    assert joined(machines, "machine", address, tmp_path, **right)
    del right["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
    assert not joined(machines, "stranger", f"{HERE}:{address.rpartition(':')[2]}", tmp_path, **right)
