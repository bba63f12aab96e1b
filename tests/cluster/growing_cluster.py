"""A cluster that grows and shrinks: Ray's real autoscaler, whose nodes are processes here, and a study launched on it.

Run as root in namespaces of its own (`command`), because starting such a cluster ends every Ray that it can see. Prints
what was observed as one line of JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

DEADLINE_SECONDS = 220.0
HEAD = "ray.head.default"  # the name that the provider gives it, whatever the file says
NOTICE_AHEAD = 15.0  # seconds; a cloud gives 30 to 120
MEMORY = {"object_store_memory": 100_000_000}
PROVIDER = {
    "type": "fake_multinode",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def command(*arguments: str) -> list[str]:
    """Run this file in private namespaces (network, processes, mounts, IPC); bash as first process reaps orphans."""
    private = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    return [*private, "bash", "-c", '"$@"; exit $?', "bash", sys.executable, __file__, *arguments]


def missing() -> str | None:
    """Why such a cluster cannot be started here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for private namespaces"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "--pid", "--fork", "true"]).returncode:
        return "needs a system that lets root make namespaces"
    return None


def private_machine() -> None:
    """Within the namespaces: a loopback interface, own temporary files, and the file that Ray's wheel lacks."""
    with socket.socket() as probe:  # as `ip link set lo up`
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 1 | 64))
    Path("/tmp/ray").mkdir(exist_ok=True)
    run = subprocess.check_call
    run(["mount", "--make-rprivate", "/"])
    run(["mount", "-t", "tmpfs", "tmpfs", "/tmp/ray"])
    run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", "/dev/shm"])
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    defaults = Path(spec.origin).parent / "autoscaler/_private/fake_multi_node"
    if not (defaults / "example.yaml").exists():
        added = tempfile.mkdtemp()
        Path(added, "example.yaml").write_text(yaml.safe_dump(cluster_config({})))
        run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={added}:{defaults}", str(defaults)])


def cluster_config(node_types: dict[str, Any]) -> dict[str, Any]:
    head = {HEAD: {"resources": {"CPU": 0, **MEMORY}, "node_config": {}, "max_workers": 0}}
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    return {
        "cluster_name": "fake",
        "max_workers": 8,
        "provider": {**PROVIDER, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID},
        "head_node_type": HEAD,
        "available_node_types": {**node_types, **head},
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.05,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in COMMANDS},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def start_head(node_types: dict[str, Any]) -> None:
    """Start the head with its autoscaler, which starts nodes when they are asked for.

    The nodes share the folder of Ray's session, and with it that of the code that a launch uploads, which each of them
    unpacks anew, under the feet of the others' processes. So the launch believes that it is a job, whose code is there.
    """
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    from study.cluster import JOB_VARIABLE, SETTINGS_OF_RAY

    config = Path(tempfile.mkdtemp(), "cluster.yaml")
    config.write_text(yaml.safe_dump(cluster_config(node_types)))
    os.environ.update(SETTINGS_OF_RAY | {JOB_VARIABLE: "of-a-test"})
    os.environ.update(
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=FAKE_HEAD_NODE_ID,
        RAY_health_check_period_ms="1000",  # a lost node is found out sooner than the usual 15 s after
        RAY_health_check_failure_threshold="3",
    )
    arguments = ["start", "--head", "--num-cpus=0", f"--autoscaling-config={config}", "--object-store-memory=100000000"]
    subprocess.check_call(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments, "--include-dashboard=false"],
        stdout=sys.stderr,
        env={**os.environ, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID},
    )


def trainers() -> list[dict[str, Any]]:
    """The living nodes that train."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and "trainer" in node["Resources"]]


def kill_head() -> None:
    """All of this machine's processes but this one and its parents: Ray, its nodes and the launch are gone at once."""
    spared = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        if process.pid not in spared:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def kill_node(node: str) -> None:
    """What a power cut does: the node's processes are gone at once."""
    for process in psutil.process_iter(["cmdline"]):
        if is_raylet(process.info["cmdline"] or [], node):
            for one in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            return
    raise AssertionError(f"no raylet of node {node}")


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service, version 2, at one address for all nodes; `ending` is a node, which alone is told so."""

    ending: str = ""
    deadline: float = 0.0

    def do_PUT(self) -> None:
        self._answer(200 if self.path == "/latest/api/token" else 404, "a-token")

    def do_GET(self) -> None:
        asked = self.path == "/latest/meta-data/spot/instance-action"
        if not asked or self.headers["X-aws-ec2-metadata-token"] != "a-token" or not self._is_ending():
            self._answer(404, "")
            return
        end = datetime.fromtimestamp(self.deadline, UTC).isoformat(timespec="seconds")
        self._answer(200, json.dumps({"action": "terminate", "time": end.replace("+00:00", "Z")}))

    def _is_ending(self) -> bool:
        """Whether the process that asks belongs to the ending node."""
        pids = [one.pid for one in psutil.net_connections("tcp") if one.laddr == self.client_address]
        families = [psutil.Process(pid).parents() for pid in pids if pid is not None and self.ending]
        return any(is_raylet(process.cmdline(), self.ending) for family in families for process in family)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def is_raylet(words: list[str], node: str) -> bool:
    return bool(words) and words[0].endswith("/raylet") and any(node in word for word in words)


class Observed:
    """What a launch on the cluster was seen to do; `events` are seconds and what was seen then."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.started = time.monotonic()
        self.events: list[tuple[float, str]] = []
        self.nodes = -1

    def sample(self) -> None:
        """Note the number of nodes that train, if it has changed."""
        assert time.monotonic() - self.started < DEADLINE_SECONDS, f"not over after {DEADLINE_SECONDS} s: {self.events}"
        if self.nodes != (count := len(trainers())):
            self.nodes = count
            self.note(f"{count} nodes")
        time.sleep(0.2)

    def note(self, event: str) -> None:
        self.events.append((round(time.monotonic() - self.started, 1), event))

    def pretraining(self, begun: str, count: int) -> tuple[str, str] | None:
        """Id and node of the pretraining that is farthest from its end, if so many run that have a file `begun`."""
        found = []
        for file in self.storage.glob("checkpoints/pretrain-*/progress.json"):
            with suppress(OSError, ValueError):
                progress = json.loads(file.read_text())
                if (file.parent / begun).exists():
                    found.append((progress["share"], file.parent.name, progress["node"]))
        return min(found)[1:] if len(found) == count and min(found)[0] < 0.7 else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("storage")
    parser.add_argument("--loss", choices=["kill", "drain", "head"], required=True)
    options = parser.parse_args()
    private_machine()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    os.environ.pop("AWS_EC2_METADATA_DISABLED", None)
    start_cluster()
    observed = Observed(Path(options.storage))
    observed.sample()
    launch = [sys.executable, "-m", "study", "launch", options.study, "--storage", options.storage, "--address", "auto"]
    too_wide = [*launch, "--set", "execution.workers=5", "--set", "execution.max_workers=null"]
    refused = subprocess.run(too_wide, capture_output=True, text=True, timeout=60)
    with tempfile.TemporaryFile("w+") as said:
        try:
            lost, code = watch(observed, launch, options.loss, said)
        finally:
            said.seek(0)
            text = said.read()
            sys.stderr.write(text)
    seen = {"events": observed.events, "exit": code, "lost": lost, "said": text}
    print(json.dumps(seen | {"refused": [refused.returncode, refused.stderr]}))


def start_cluster() -> None:
    import ray

    from study.capacity import PRICE_LABEL

    trainer = {"resources": {"CPU": 1, "trainer": 1, **MEMORY}, "labels": {PRICE_LABEL: "small-spot"}}
    start_head({"trainer": {**trainer, "node_config": {}, "max_workers": 2}})
    ray.init("auto", log_to_driver=False, logging_level="ERROR")


def watch(observed: Observed, launch: list[str], loss: str, said: IO[str]) -> tuple[tuple[str, str] | None, int]:
    """Launch, take a node or the head away while both nodes train, and wait for the launch and the last node's end.

    Returns the trial and node that were lost, and the exit code of the (last) launch.
    """
    lost = None
    process = subprocess.Popen(launch, stdout=said, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            observed.sample()
            running = ("progress.json", 1) if loss == "drain" else ("latest.pt", 2)
            if lost is None and observed.nodes == 2 and (found := observed.pretraining(*running)):
                lost = found
                observed.note("loss")
                if loss != "head":
                    lose(loss, lost[1])
                    continue
                replace_head()
                process.wait()
                observed.note("another head")
                process = subprocess.Popen(launch, stdout=said, stderr=subprocess.STDOUT)
    finally:
        process.kill()
    observed.note("launch over")
    while trainers():
        observed.sample()
    observed.sample()
    return lost, process.returncode


def replace_head() -> None:
    """All is gone at once, as in a power cut; then there is another head, which knows nothing of the first."""
    import ray

    ray.shutdown()
    kill_head()
    start_cluster()


def lose(how: str, node: str) -> None:
    if how == "kill":
        kill_node(node)
    else:
        Metadata.deadline, Metadata.ending = time.time() + NOTICE_AHEAD, node
        threading.Timer(NOTICE_AHEAD, kill_node, [node]).start()


if __name__ == "__main__":
    main()
