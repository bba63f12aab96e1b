"""A mock of AWS's API on a network: moto's server, what it lacks, and a record of who asked for what.

`python -m mock_aws PORT FILE` appends a line `ACCESS_KEY SERVICE:ACTION` to the file for every call but those of S3.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

IMAGE = "ami-12c6146b"
"""Of moto's own images, which stand for Amazon's."""

Answer = Iterable[bytes]


def mock(moto: Callable[..., Answer], calls: Path) -> Callable[..., Answer]:
    """moto's application, with placement groups, the parameter of the newest image, and capacity for every launch."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Answer:
        credential = re.search(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key, service = credential.groups() if credential else ("nobody", "s3")
        if service == "s3":  # its bodies come in chunks, and are nothing of ours
            return moto(environ, start_response)
        content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        form = parse_qs(content.decode())
        action = form.get("Action", [environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]])[0]
        with calls.open("a", encoding="utf-8") as file:
            file.write(f"{key} {service}:{action}\n")
        if action in ("DescribePlacementGroups", "CreatePlacementGroup"):
            start_response("200 OK", [("Content-Type", "text/xml")])
            return [f"<{action}Response><placementGroupSet/></{action}Response>".encode()]
        if action == "GetParameter":
            start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps({"Parameter": {"Value": IMAGE}}).encode()]
        if action == "RunInstances":  # moto starts MinCount instances, EC2 MaxCount if it has them
            content = re.sub(rb"MinCount=\d+", b"MinCount=" + form["MaxCount"][0].encode(), content)
            environ["CONTENT_LENGTH"] = str(len(content))
        environ["wsgi.input"] = io.BytesIO(content)
        return moto(environ, start_response)

    return application


def main(port: int, calls: Path) -> None:
    moto = DomainDispatcherApplication(create_backend_app)
    run_simple("0.0.0.0", port, mock(moto, calls), threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
