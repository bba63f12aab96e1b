"""Who is on the same network as a cluster's head can do nothing without the token; the firewall closes the rest."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from strangers import HERE, ROOT, THERE, TOKEN, Machines, asked, environment, joined, kind, two_machines, wait_for

from studies import tiny

pytestmark = pytest.mark.timeout(400)

NEIGHBOR = "10.77.0.3"
NAMED = {6379, 8076, 10001, 52365}
"""Ports that the documentation names, of processes that are up last too."""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def head(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A head as `cluster.yaml` starts it; yields its home, where its token is."""
    home = Path(tmp_path_factory.mktemp("head"))
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"]
    (command,) = [line for line in commands if "ray start" in line]
    words = shlex.split(command.partition("ray start ")[2])
    options = [word for word in words if not word.startswith("--autoscaling-config")]
    with (home / "said").open("wb") as said:
        process = subprocess.Popen(
            machines.inside("machine", "ray", "start", "--block", "--num-cpus=1", *options),
            stdout=said,
            stderr=said,
            cwd="/",
            env=environment(home, RAY_AUTH_MODE="token", RAY_TMPDIR=str(home)),
        )
    try:
        wait_for(lambda: b"Ray runtime started" in (home / "said").read_bytes() or process.poll() is not None, 120)
        wait_for(lambda: {port for _, port in machines.listening()} >= NAMED, 90)
        yield home
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_nothing_is_done_without_the_token_and_metrics_alone_are_read(machines: Machines, head: Path) -> None:
    ports = sorted({port for _, port in machines.listening()})
    answers = asked(machines, "stranger", HERE, ports)
    kinds = {port: kind(answer) for port, answer in answers.items() if answer}
    assert kinds.keys() >= NAMED and 8265 not in kinds  # the dashboard, which takes jobs
    assert set(kinds.values()) == {"refuses", "metrics"}
    assert list(kinds.values()).count("metrics") == 3  # as the documentation says


def test_cluster_is_joined_with_the_token_only(machines: Machines, head: Path, tmp_path: Path) -> None:
    address = f"{HERE}:6379"
    assert not joined(machines, "stranger", address, tmp_path, RAY_AUTH_MODE="disabled")
    assert not joined(machines, "stranger", address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert joined(machines, "stranger", address, head, RAY_AUTH_MODE="token")


def launched(machines: Machines, file: Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A launch on the cluster, by a user whose home is that."""
    command = ["-m", "study", "launch", file, "--storage", file.parent / "runs", "--address", f"{HERE}:6379"]
    return subprocess.run(
        machines.inside("machine", sys.executable, *command),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=environment(home, **variables),
    )


def test_launch_with_an_address_uses_the_users_token_or_says_what_is_wrong_with_it(
    machines: Machines, head: Path, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny(stages={"supervised": tiny()["stages"]["supervised"]})))
    for variables, message in (
        ({}, "asks for a token, and there is none"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses this user's token"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled is set"),
    ):
        refused = launched(machines, file, tmp_path, **variables)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    done = launched(machines, file, head)
    assert done.returncode == 0 and "1 done" in done.stdout and "asks for no token" not in done.stdout, done.stderr


def test_firewall_of_the_documentation_closes_all_ports_to_strangers(machines: Machines, head: Path) -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    (block,) = re.findall(r"```sh\n(nft .*?)```", text, re.DOTALL)
    script = block.replace("10.0.0.0/24", NEIGHBOR)
    ports = sorted({port for _, port in machines.listening()})
    assert any(asked(machines, "stranger", HERE, ports).values())
    subprocess.run(machines.inside("machine", "bash", "-euc", script), check=True)
    assert set(asked(machines, "stranger", HERE, ports).values()) == {None}
    assert any(asked(machines, "machine", HERE, ports).values())  # Ray goes on
    subprocess.run(machines.inside("machine", "nft", "delete", "table", "inet", "labelscale"), check=True)
    open_again = script.replace(NEIGHBOR, THERE)  # the stranger is a node of the cluster
    subprocess.run(machines.inside("machine", "bash", "-euc", open_again), check=True)
    assert any(asked(machines, "stranger", HERE, ports).values())
