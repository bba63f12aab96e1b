"""A small TCP proxy in front of an object store, which can be told to be slow, silent, or to break connections."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal

Mode = Literal["through", "slow", "silent", "reset", "refuse"]
MODES: tuple[Mode, ...] = ("slow", "silent", "reset", "refuse")
SLOW_SECONDS = 0.4
"""A slow answer comes so late, in every direction."""
_AT_ONCE = struct.pack("ii", 1, 0)  # closing sends a reset instead of what is left


class Proxy:
    """Forwards bytes to a server on this machine; `mode` may be changed at any time.

    `slow` delays every piece, `silent` keeps them until the mode changes, `reset` breaks connections in the middle of
    an answer, `refuse` breaks those that are there and every new one.
    """

    def __init__(self, port: int) -> None:
        self.mode: Mode = "through"
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.mode == "refuse":
            _break(client)
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        pair = (client, server)
        threading.Thread(target=self._forward, args=(*pair, pair, False), daemon=True).start()
        self._forward(server, client, pair, True)

    def _forward(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket], answers: bool
    ) -> None:
        try:
            while piece := source.recv(65536):
                while self.mode == "silent":
                    time.sleep(0.05)
                if self.mode == "slow":
                    time.sleep(SLOW_SECONDS)
                if self.mode == "refuse":
                    raise ConnectionResetError
                if self.mode == "reset" and answers:
                    sink.sendall(piece[: len(piece) // 2])
                    raise ConnectionResetError
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in pair:
                _break(end)


def _break(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        connection.close()
