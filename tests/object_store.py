"""An S3 server on the loopback address, which can be told to fail."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import moto.settings
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "us-east-1"
Fault = Callable[[str, str], str | None]
"""From method and path of a request to `503`, `403`, `404` (the bucket is gone), `cut` (the connection ends without an
answer), or None: answer."""


class QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: thousands of requests are not worth a line each."""


class ObjectStore:
    """The running server: its URL, the requests that it got as (method, path with query), and the fault it has."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault | None = None
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=QuietHandler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, query = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        fault = None if self.fault is None else self.fault(method, path)
        self.requests.append((method, path))
        if fault == "cut":
            raise ConnectionResetError
        if fault is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = {
                "503": ("503 Slow Down", "SlowDown"),
                "403": ("403 Forbidden", "AccessDenied"),
                "404": ("404 Not Found", "NoSuchBucket"),
            }[fault]
            start_response(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()]
        answer: Iterable[bytes] = self._answer(environ, start_response)
        return answer

    def client(self, service: str = "s3") -> Any:
        return boto3.client(service, endpoint_url=self.url, region_name=REGION)

    def bucket(self, name: str) -> str:
        """Make a bucket; returns the URL of a storage in it."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}/runs"

    def keys(self, bucket: str) -> set[str]:
        """All objects of a bucket, without the empty ones that stand for folders."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
        return {key for key in keys if not key.endswith("/")}

    def user(self, name: str, *actions: str) -> dict[str, str]:
        """Make a user who may do these actions and nothing else; returns the environment that logs in."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def policies_enforced() -> Iterator[None]:
    """Users' policies count; outside of it everybody may do everything."""
    before = moto.settings.INITIAL_NO_AUTH_ACTION_COUNT
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    try:
        yield
    finally:
        moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = before


@contextmanager
def running_store() -> Iterator[ObjectStore]:
    """A server for the time of a block, in the environment of this process and its children."""
    for noisy in ("botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    store = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_GCE_CHECK": "true",
        }.items():
            patch.setenv(name, value)
        try:
            yield store
        finally:
            store.stop()
