"""Stands for `aws ssm start-session --document-name AWS-StartSSHSession`: connects to a node known by its id.

The mock cloud writes the addresses of running nodes into /run/instances of the machine that this runs on. As with AWS,
a node is known in its own region only.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

REGION = "us-west-2"  # of the nodes: that of the shipped cluster.yaml


def main(arguments: list[str]) -> None:
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    wanted = {"--region", "--target", "--document-name", "--parameters"}
    if arguments[:2] != ["ssm", "start-session"] or options.keys() != wanted:
        raise SystemExit(f"only `aws ssm start-session` with {sorted(wanted)} is known here, not {arguments}")
    if options["--document-name"] != "AWS-StartSSHSession":
        raise SystemExit(f"SSH goes through AWS-StartSSHSession, not {options['--document-name']}")
    running = dict(line.split() for line in Path("/run/instances").read_text().splitlines())
    if options["--region"] != REGION or options["--target"] not in running:
        raise SystemExit(f"TargetNotConnected: {options['--target']} is not connected in {options['--region']}")
    port = int(options["--parameters"].removeprefix("portNumber="))
    with socket.create_connection((running[options["--target"]], port), timeout=10) as connection:
        connection.settimeout(None)
        threading.Thread(target=send, args=(connection,), daemon=True).start()
        while content := connection.recv(65536):
            os.write(1, content)


def send(connection: socket.socket) -> None:
    while content := os.read(0, 65536):
        connection.sendall(content)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1:])
