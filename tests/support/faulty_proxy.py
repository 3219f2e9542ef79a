"""A proxy in front of a server of this machine that can freeze, or answer 503, for a while."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from urllib.parse import urlsplit

AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FaultyProxy:
    """Passes bytes in both directions, unless `frozen` or `away` is set.

    frozen: nothing passes any more, and nothing is lost. away: what is under way is cut off, new requests get 503.
    """

    def __init__(self, url: str):
        there = urlsplit(url)
        self._target = there.hostname, there.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = threading.Event()
        self._open.set()
        self.away = False
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """Nothing passes inside."""
        self._open.clear()
        yield
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._open.wait()
            if self.away:
                client.recv(65536)
                self.refused += 1
                client.sendall(AWAY)
                return
            with socket.create_connection(self._target) as server:
                threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
                self._pass(client, server)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                if self.away:
                    self.refused += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept nothing more."""
        self._open.set()
        self._listener.close()
