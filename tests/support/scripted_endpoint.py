"""A local endpoint that speaks the OpenAI chat protocol and misbehaves as it is told.

In a test: `with serve(reply, script=["429", "ok"]) as endpoint: ... endpoint.url`. As a process of its own:
`python scripted_endpoint.py --port 0 --faults 0.1 --replies model_replies:reply --log answered.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SLOW = ("hang", "drip")
"""Misbehaviours that last until the client gives up: nothing comes, or one blank after the other."""
KINDS = (
    *("malformed", "cut", "error body", "no choices", "empty", "408", "429", "500", "503", *SLOW),
    *("reset", "reset later"),
)
"""Misbehaviours that another try may mend; the two resets come before and after the headers."""
ERRORS = {
    "400": (400, {"message": "this model's maximum context length is 2048 tokens"}),
    "404 model": (404, {"message": "the model does not exist"}),
    "400 model": (400, {"message": "unknown model: scripted"}),
    "quota": (429, {"message": "you exceeded your current quota", "code": "insufficient_quota"}),
    "temperature": (400, {"message": "unsupported value", "param": "temperature"}),
    "no schema": (400, {"message": "this is not supported here"}),
    "no max_tokens": (400, {"message": "use 'max_completion_tokens' instead", "param": "max_tokens"}),
}
ONLY_WITH = {"no schema": "response_format", "no max_tokens": "max_tokens"}
"""Errors that come only where a request has this field."""

Replies = Callable[[list[dict], dict], str]


def fingerprint(messages: list[dict]) -> str:
    """Hash of what a call asks."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:32]


class Endpoint:
    """What is shared by the connections of a server.

    Args:
      replies: (messages, body of the request) -> text of the reply.
      script: what the next calls meet, "ok", one of KINDS or ERRORS, a status, "refusal", "filter", "length" or
        "no usage"; after its end `faults` decides.
      faults: share of the calls that meet a random one of `kinds`.
      model: name that /v1/models lists; "": there is no such list.
      key: the only key that is accepted; "": any.
      retry_after: what a 429 asks for, and a 503 unless it is "0".
      hang: seconds that a slow call holds its connection at most.
      log: file that gets a line for each call that was answered: its fingerprint.
      keep: whether `requests` keeps them.
    """

    def __init__(
        self,
        replies: Replies,
        *,
        script: Iterable[str] = (),
        faults: float = 0.0,
        kinds: tuple[str, ...] = KINDS,
        seed: int = 0,
        model: str = "scripted",
        key: str = "",
        retry_after: str = "0",
        hang: float = 5.0,
        log: Path | None = None,
        keep: bool = True,
    ):
        self.replies, self.script, self.faults, self.kinds = replies, list(script), faults, kinds
        self.model, self.key, self.retry_after, self.hang = model, key, retry_after, hang
        self.log, self.keep = log, keep
        self.answered: Counter[str] = Counter()
        """Calls by fingerprint that got a whole, usable response."""
        self.requests: list[dict] = []
        """Bodies of all calls."""
        self.url = ""
        self.stopped = threading.Event()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def next(self, body: dict) -> str:
        """What a call meets."""
        with self._lock:
            if self.keep:
                self.requests.append(body)
            if self.script:
                return self.script.pop(0)
            return self._random.choice(self.kinds) if self._random.random() < self.faults else "ok"

    def note(self, body: dict) -> None:
        """Count a call that is about to be answered."""
        with self._lock:
            name = fingerprint(body["messages"])
            self.answered[name] += 1
            if self.log is not None:
                with open(self.log, "a", encoding="utf-8") as file:
                    file.write(name + "\n")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or headers and body, sent apart, wait for each other
    endpoint: Endpoint

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        if not self.path.endswith("/models") or not self.endpoint.model:
            self.send(404, {"error": {"message": "not found"}})
        elif self.authorized():
            self.send(200, {"object": "list", "data": [{"id": self.endpoint.model, "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            self.send(404, {"error": {"message": "not found"}})
        elif self.authorized():
            self.answer(self.endpoint.next(body), body)

    def authorized(self) -> bool:
        if self.endpoint.key and self.headers.get("Authorization") != f"Bearer {self.endpoint.key}":
            self.send(401, {"error": {"message": "incorrect API key"}})
            return False
        return True

    def answer(self, kind: str, body: dict):
        """One call, as its kind says."""
        if kind in ERRORS or kind.isdecimal():
            if kind in ONLY_WITH and ONLY_WITH[kind] not in body:
                return self.answer("ok", body)
            status, error = ERRORS[kind] if kind in ERRORS else (int(kind), {"message": f"as scripted: {kind}"})
            asks = kind == "429" or (kind == "503" and self.endpoint.retry_after != "0")
            headers = {"Retry-After": self.endpoint.retry_after} if asks else {}
            return self.send(status, {"error": error}, headers)
        if kind in ("reset", "reset later"):
            if kind == "reset later":
                self.raw(200, b"{", length=100)
            # Closing with a linger of zero sends a reset in place of a proper end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if kind == "hang":
            self.close_connection = True
            return self.endpoint.stopped.wait(self.endpoint.hang)
        if kind == "drip":
            return self.drip()
        if kind == "malformed":
            return self.raw(200, b'{"choices": [{"message": {"content": "half')
        if kind == "error body":
            return self.send(200, {"error": {"message": "the engine is overloaded"}})
        message = {"role": "assistant", "content": self.endpoint.replies(body["messages"], body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        response = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        if kind != "no usage":
            sent = sum(len(m["content"]) for m in body["messages"]) // 4
            response["usage"] = {"prompt_tokens": sent, "completion_tokens": len(message["content"]) // 4 + 1}
            response["usage"]["total_tokens"] = sum(response["usage"].values())
        if kind == "no choices":
            response["choices"] = []
        elif kind == "empty":
            message["content"] = ""
        elif kind == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        elif kind == "filter":
            message["content"], choice["finish_reason"] = "", "content_filter"
        elif kind == "length":
            message["content"], choice["finish_reason"] = message["content"][:20], "length"
        if kind == "cut":
            data = json.dumps(response).encode()
            self.raw(200, data[: len(data) // 2], length=len(data))
            self.close_connection = True
            return None
        if kind in ("ok", "no usage", "length"):
            self.endpoint.note(body)
        return self.send(200, response)

    def drip(self):
        """A blank every now and then, before a body that never comes."""
        self.close_connection = True
        self.raw(200, b"", length=10**6)
        end = time.monotonic() + self.endpoint.hang
        while time.monotonic() < end and not self.endpoint.stopped.wait(0.02):
            self.wfile.write(b" ")

    def send(self, status: int, body: dict, headers: dict | None = None):
        self.raw(status, json.dumps(body).encode(), headers)

    def raw(self, status: int, data: bytes, headers: dict | None = None, length: int | None = None):
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(length or len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """A thread for each connection; closing it ends them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments):
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self):
        super().server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_):
        """A client that went away is no news."""


@contextmanager
def serve(replies: Replies, *, port: int = 0, **options):
    """A server in a thread of this process; yields its Endpoint."""
    endpoint = Endpoint(replies, **options)
    server = Server(("127.0.0.1", port), type("Handler", (Handler,), {"endpoint": endpoint}))
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until killed; the address is printed first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replies", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--key", default="")
    parser.add_argument("--retry-after", default="0")
    parser.add_argument("--hang", type=float, default=5.0)
    parser.add_argument("--log", type=Path)
    options = vars(parser.parse_args())
    module, _, name = options.pop("replies").partition(":")
    with serve(getattr(importlib.import_module(module), name), keep=False, **options) as endpoint:
        print(endpoint.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
