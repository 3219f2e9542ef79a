"""A proxy in front of a server of this machine that counts what is fetched through it."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "date", "server")
"""Headers that each connection has of its own."""


class CountingProxy:
    """Passes requests on; `fetched` has the bytes of the answers to GET, by the object that was asked for."""

    def __init__(self, url: str):
        self._target, self.fetched, self._one = urlsplit(url).netloc, dict[str, int](), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer_to(self, method: str, path: str, body: bytes, headers: dict) -> tuple[http.client.HTTPResponse, bytes]:
        """What the server answers."""
        connection = http.client.HTTPConnection(self._target, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if method == "GET" and answer.status in (200, 206):
            name = unquote(re.sub(r".*/o/|\?.*", "", path))
            with self._one:
                self.fetched[name] = self.fetched.get(name, 0) + len(data)
        return answer, data

    def bytes_of(self, suffix: str) -> int:
        """Bytes that were fetched of objects with this end of their name."""
        return sum(count for name, count in self.fetched.items() if name.endswith(suffix))

    def close(self) -> None:
        """Accept nothing more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: CountingProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer, data = self.proxy.answer_to(self.command, self.path, body, dict(self.headers.items()))
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        with contextlib.suppress(ConnectionError):  # whoever asked has gone
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = pass_on
