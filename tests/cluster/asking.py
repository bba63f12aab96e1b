"""Ask ports, without a token, for everything that Ray's own programs can be asked; prints what they answer.

`python asking.py HOST PORTS`: a line of JSON, for every port its `grpc` statuses with the methods that gave
them, the statuses of its `http` paths, and whether all that it gives are `metrics`; or null where nobody listens.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import grpc
import ray

RAYLET = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"
CLIENT = ("Init", "KVGet", "KVPut", "ClusterInfo", "GetObject", "PutObject", "Schedule", "Terminate")
PATHS = (
    "/",
    "/api/healthz",
    "/api/local_raylet_healthz",
    "/api/jobs/",
    "/api/job_agent/jobs/",
    "/api/version",
    "/logs",
)
PATHS_OF_AGENT = ("/get_or_create_runtime_env", "/delete_runtime_env_if_possible", "/get_runtime_envs_info")


def methods() -> list[str]:
    """All methods that are named in Ray's program, and those of its client server."""
    found = {name.decode() for name in re.findall(rb"/ray\.rpc\.\w+/\w+", RAYLET.read_bytes())}
    client = {f"/ray.rpc.RayletDriver/{name}" for name in CLIENT}
    return sorted(found | client | {"/grpc.health.v1.Health/Check"})


def ask_grpc(host: str, port: int) -> dict[str, list[str]]:
    """The statuses of empty requests, with the methods. Nothing if the port does not speak gRPC."""
    answers: dict[str, list[str]] = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in methods():
            try:
                channel.unary_unary(method)(b"", timeout=5)
                status = "OK"
            except grpc.RpcError as error:
                status = error.code().name
            if status == "UNAVAILABLE" and not answers:
                return {}
            answers.setdefault(status, []).append(method)
    return answers


def ask_http(host: str, port: int) -> tuple[dict[str, int], bool]:
    """The statuses of requests; none if the port does not speak HTTP."""
    answers, metrics = {}, []
    for path in (*PATHS, *PATHS_OF_AGENT):
        for verb in ("GET", "POST", "PUT", "DELETE"):
            body = None if verb == "GET" else b"{}"
            request = urllib.request.Request(f"http://{host}:{port}{path}", method=verb, data=body)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    status = answer.status
                    metrics.append(b"# HELP" in answer.read(1000))
            except urllib.error.HTTPError as error:
                status = error.code
            except (OSError, HTTPException):  # it does not speak HTTP
                return {}, False
            answers[f"{verb} {path}"] = status
    return answers, bool(metrics) and all(metrics)


def ask(host: str, port: int) -> dict[str, Any] | None:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return None
    http, metrics = ask_http(host, port)
    return {"grpc": {} if http else ask_grpc(host, port), "http": http, "metrics": metrics}


if __name__ == "__main__":
    print(json.dumps({port: ask(sys.argv[1], int(port)) for port in sys.argv[2].split(",")}))
