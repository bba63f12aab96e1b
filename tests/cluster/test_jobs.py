"""A launch as a job on a cluster: a real head with its dashboard and tokens, and storage on an object store."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from object_store import ObjectStore
from reports.storage import Storage
from reports.stored import read_records
from studies import tiny
from study.tunnel import dashboard
from study.upload import PACKAGES

pytestmark = pytest.mark.timeout(280)

HEAD = """
import sys, ray
context = ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
print("http://" + context.dashboard_url, flush=True)
sys.stdin.read()
"""


def environment(**variables: str) -> dict[str, str]:
    """As in an activated virtual environment, with some variables more."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **variables}


@contextmanager
def running_head(**variables: str) -> Iterator[str]:
    """A head on this machine, which ends with the block; yields its dashboard's URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",  # the code is not here: it comes with the job
        env=environment(**variables),
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def launch(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "study", "launch", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def test_job_outlives_the_laptop_is_found_again_and_can_be_stopped(
    store: ObjectStore, shards: str, tmp_path: Path
) -> None:
    stages = {name: stage for name, stage in tiny()["stages"].items() if name in ("pretrain", "linear")}
    stages["pretrain"]["optimization"]["epochs"] = 100_000  # until it is stopped
    data = {"name": "digits", "source": Path(shards).as_uri(), "image_size": 8, "train_images": 200, "classes": 10}
    execution = {"workers": 1, "per_worker": {"CPU": 1}, "min_effective_rank": 0}
    file, other, base = tmp_path / "my study.yaml", tmp_path / "other.yaml", tmp_path / "base of it.yaml"
    base.write_text(yaml.safe_dump(tiny(name="base", stages=stages, data=data)))
    file.write_text(yaml.safe_dump({"base": base.name, "name": "tiny", "execution": execution}))
    other.write_text(yaml.safe_dump(tiny(name="other")))
    storage = store.bucket("jobs")
    token = {"RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789"}  # a launch shows it without being told to
    with running_head(RAY_AUTH_MODE="token", **token) as url:
        arguments = (file, "--cluster", url, "--storage", storage, "--set", "pretrain.optimization.learning_rate=0.2")
        job, advice = leave(launch(*arguments, **token))

        code, _, errors = end(launch(other, "--cluster", url, "--storage", storage, **token))
        assert code == 2 and f"in use by job {job} of the study 'tiny'" in errors
        code, _, errors = end(launch(file, "--cluster", url, "--storage", storage, "--seeds", "2", **token))
        assert code == 2 and f"{job} of this study runs on" in errors and "launching with `--seeds 2` does" in errors
        code, _, errors = end(launch(file, "--storage", storage))
        assert code == 2 and f"in use by job {job} of the study 'tiny' on host" in errors
        code, _, errors = end(launch(*arguments, **token | {"RAY_AUTH_TOKEN": "another"}))
        assert code == 2 and "refuses this user's token" in errors and "Traceback" not in errors

        follower = launch(*arguments, **token)
        assert follower.stdout is not None
        assert follower.stdout.readline() == f"following job {job}, which runs already\n"
        stop = re.findall(r"^`(.+)`$", advice.replace("http://127.0.0.1:8265", url), re.MULTILINE)[0]
        stopped = subprocess.run(
            stop, shell=True, env=environment(**token), capture_output=True, text=True, timeout=100
        )
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        code, output, errors = end(follower)
        assert code == 1 and "1 running" in output and "Traceback" not in errors, output + errors
        assert not Storage(storage).list("lease"), "the lease is given back"

        code, output, errors = end(launch(*arguments, "--set", "pretrain.optimization.epochs=2", **token))
        assert code == 0 and output.splitlines()[-1] == f"report: {storage}/reports/tiny.html", output + errors
    records, problems = read_records(Storage(storage))
    assert not problems and {record.spec.stage for record in records} == {"pretrain", "linear"}
    for record in records:
        assert record.environment is not None and record.environment.commit != "unknown"
        if record.spec.stage == "pretrain":
            assert record.spec.settings["optimization"]["learning_rate"] == 0.2  # type: ignore[index,call-overload]
    code, _, errors = end(launch(file, "--cluster", url, "--storage", storage, **token))
    assert code == 2 and url in errors and "Traceback" not in errors


def leave(first: subprocess.Popen[str]) -> tuple[str, str]:
    """Follow a launch until it trains, then interrupt the following; returns the job's id and all that was said."""
    assert first.stdout is not None
    said = first.stdout.readline()
    assert said.startswith("job "), (said, end(first))
    job = said.split()[1]
    while " running" not in (line := first.stdout.readline()):
        print(line, end="")
        assert line, "the job ended early: " + "".join(end(first)[1:])
    first.send_signal(signal.SIGINT)
    code, output, errors = end(first)
    assert code == 130 and f"job {job} goes on" in output and "Traceback" not in errors, output + errors
    return job, output


def test_what_cannot_be_launched_on_a_cluster_is_refused_here(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny()))
    for arguments, message in (
        (("--cluster", "nowhere.yaml", "--storage", "/shared/runs"), "no such file"),
        (("--cluster", "nowhere.yaml"), "URL such as s3://bucket/runs"),
        (("--cluster", "nowhere.yaml", "--storage", "/shared/runs", "--address", "auto"), "give one"),
    ):
        code, _, errors = end(launch(file, *arguments))
        assert code == 2 and message in errors and "Traceback" not in errors


def test_cluster_that_is_not_up_is_told_with_what_ray_said(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    provider = {"type": "local", "head_ip": "192.0.2.1", "worker_ips": []}
    file.write_text(yaml.safe_dump({"cluster_name": "absent", "provider": provider, "auth": {"ssh_user": "nobody"}}))
    with pytest.raises(ValueError, match=r"cannot be reached; is it up \(`ray up"), dashboard(str(file)):
        pass


def test_everything_that_a_launch_imports_travels() -> None:
    root = Path(__file__).resolve().parents[2]
    ours = {path.parent.name for path in root.glob("*/*.py")} - {"tests", "benchmarks", "deploy"}
    assert ours == set(PACKAGES)
