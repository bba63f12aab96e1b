"""Machines are gone with the process that made them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import refuse_shared_namespaces

HERE = Path(__file__).resolve().parent

MAKE_MACHINES = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hosts import Network
network = Network("172.31.0.1", 16, Path(sys.prefix))
for number in (1, 2):
    network.start(f"machine{number}", f"172.31.0.{number + 1}", "ubuntu", "", "")
print(network.run("machine1", "ip route get 172.31.0.3 && hostname", Path("/"), 20), flush=True)
if sys.argv[2] == "fails":
    raise RuntimeError("as a test may")
time.sleep(600)
"""


def processes() -> set[str]:
    return {entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def mounts() -> int:
    return len(Path("/proc/self/mounts").read_text().splitlines())


@pytest.mark.parametrize("ending", ["fails", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_of_the_machines_is_left(ending: str) -> None:
    refuse_shared_namespaces()
    before, mounted = processes(), mounts()
    private = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    command = ["unshare", *private, "bash", "-c", '"$@"; exit $?', "bash", sys.executable, "-c", MAKE_MACHINES]
    started = [*command, str(HERE), ending]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, start_new_session=True) as outer:
        assert outer.stdout
        output = iter(outer.stdout.readline, "")
        assert any(line.strip() == "machine1" for line in output)  # both are up, and the first sees the second
        during = processes() - before
        assert len([name for name in during if "sshd" in command_of(name)]) == 2
        if ending == "SIGKILL":
            outer.kill()
        elif ending != "fails":
            os.killpg(outer.pid, getattr(signal, ending))  # as Ctrl-C and a supervisor do
        assert outer.wait(timeout=20) != 0
    deadline = time.monotonic() + 10
    while left := [name for name in during if command_of(name)]:
        assert time.monotonic() < deadline, f"still running: {[command_of(name) for name in left]}"
        time.sleep(0.1)
    assert mounts() == mounted
    links = subprocess.check_output(["ip", "-brief", "link"], text=True)
    assert [line.split()[0] for line in links.splitlines()] == ["lo"]


def command_of(process: str) -> str:
    """Command line of a process; "" if it ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
