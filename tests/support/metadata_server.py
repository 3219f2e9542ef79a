"""A double of Google Cloud's metadata server, with keys that tests set."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INSTANCE = "/computeMetadata/v1/instance/"


@contextlib.contextmanager
def metadata_server() -> Generator[tuple[str, dict[str, str]]]:
    """Its address for GCE_METADATA_HOST, and the values under `instance/` by key; others are absent."""
    values = {"maintenance-event": "NONE", "preempted": "FALSE"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = values.get(self.path.removeprefix(INSTANCE))
            found = value is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if found else 404)
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write((value if found else "").encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", values
    finally:
        server.shutdown()
        server.server_close()
