"""A launch in a pod learns its cluster's node types from the Kubernetes API, here one of our own on loopback."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import tiny_study
from study.capacity import NodeType, NodeTypes, worker_slots
from study.config import Execution
from study.plan import ExpectedImages, make_plan

ROOT = Path(__file__).resolve().parents[1]
SPEC: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
READABLE = "/apis/ray.io/v1/namespaces/studies/rayclusters/"
ASK = """
import dataclasses, json, pathlib, sys
from study.capacity import node_types
said = []
types = node_types(said.append, pathlib.Path(sys.argv[1]))
print(json.dumps([None if types is None else dataclasses.asdict(types), said]))
"""


def ray_cluster(name: str, **spec: Any) -> dict[str, Any]:
    """The resource that KubeRay makes of the shipped file."""
    metadata = {"name": name, "namespace": "studies"}
    whole = {**SPEC["rayClusterSpec"], **spec}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": whole}


NONE = NodeTypes((), 2)
CLUSTERS = {"growing": ray_cluster("growing"), "fixed": ray_cluster("fixed", enableInTreeAutoscaling=False)}


class Api(BaseHTTPRequestHandler):
    """Lets everybody read the RayClusters of the namespace `studies`, and nothing else."""

    def do_GET(self) -> None:
        allowed = self.path.startswith(READABLE)
        found = CLUSTERS.get(self.path.removeprefix(READABLE)) if allowed else {"kind": "Status", "reason": "Forbidden"}
        body = json.dumps(found).encode()
        self.send_response((200 if found else 404) if allowed else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: what the API was asked shows in the answers."""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a container of KubeRay's whose Kubernetes API is this process.

    Ray's client reads a service account's token at a path that cannot be changed, so it shows a certificate instead.
    """
    folder = tmp_path_factory.mktemp("api")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=kubernetes -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*new.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
            "NO_PROXY": "127.0.0.1",
        }
        server.shutdown()
        thread.join()


def ask(root: Path, namespace: str | None, environment: dict[str, str]) -> tuple[NodeTypes | None, list[str]]:
    """Node types, and what was said, in a process of a pod: Ray's client reads the environment when it is imported."""
    folder = root / "var/run/secrets/kubernetes.io/serviceaccount"
    folder.mkdir(parents=True)
    if namespace is not None:
        (folder / "namespace").write_text(namespace)
    done = subprocess.run(
        [sys.executable, "-c", ASK, root], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    found, said = json.loads(done.stdout)
    if found is None:
        return None, said
    return NodeTypes(tuple(NodeType(**one) for one in found["types"]), found["max_nodes"]), said


def test_node_types_of_the_shipped_rayjob_are_known_and_bound_what_may_be_asked(
    pod: dict[str, str], tmp_path: Path
) -> None:
    types, said = ask(tmp_path, "studies", {**pod, "RAY_CLUSTER_NAME": "growing"})
    memory = {"one-gpu": 28 * 2**30, "eight-gpus": 1000 * 2**30}
    assert types is not None and said == []
    assert types.types == (
        NodeType("one-gpu", {"CPU": 8, "GPU": 1, "memory": memory["one-gpu"]}, 12),
        NodeType("eight-gpus", {"CPU": 96, "GPU": 8, "memory": memory["eight-gpus"]}, 8),
    )
    plan = make_plan(tiny_study(), ExpectedImages(200, 10))
    one_each = Execution(per_worker={"GPU": 1.0, "CPU": 8.0})
    assert worker_slots(plan, one_each, [], types, may_grow=True) == 12 + 8 * 8
    with pytest.raises(ValueError, match=r"(?s)can have 0 at most.*one-gpu .*at most 12.*eight-gpus .*at most 8"):
        worker_slots(plan, Execution(per_worker={"GPU": 1.0, "CPU": 97.0}), [], types, may_grow=True)


@pytest.mark.parametrize(
    ("name", "namespace", "port", "because"),
    [
        ("growing", "others", None, "403 Client Error: Forbidden"),
        ("gone", "studies", None, "404 Client Error: Not Found"),
        ("growing", "studies", "1", "Connection refused"),
        ("growing", None, None, "No such file or directory"),
    ],
)
def test_api_that_tells_nothing_is_said_and_fails_no_launch(
    name: str, namespace: str | None, port: str | None, because: str, pod: dict[str, str], tmp_path: Path
) -> None:
    changed = {} if port is None else {"KUBERNETES_SERVICE_PORT_HTTPS": port}
    types, said = ask(tmp_path, namespace, {**pod, **changed, "RAY_CLUSTER_NAME": name})
    assert types is None and len(said) == 1
    assert "execution.max_workers is believed" in said[0] and because in said[0]


def test_cluster_that_does_not_grow_has_no_node_types(pod: dict[str, str], tmp_path: Path) -> None:
    assert ask(tmp_path, "studies", {**pod, "RAY_CLUSTER_NAME": "fixed"}) == (NONE, [])


def test_nobody_is_asked_outside_of_kuberay(pod: dict[str, str], tmp_path: Path) -> None:
    assert ask(tmp_path, "others", pod) == (NONE, []), "a pod of no Ray cluster"
