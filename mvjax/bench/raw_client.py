"""A client of completions on sockets of its own, in a process that imports nothing but the standard library, so that it
takes little of the processors that it measures. Reads from standard input {"host", "port", "bodies"}: all bodies are
sent at once, each on a connection of its own; writes what it saw and the processor seconds that it used.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

END = b"data: [DONE]"


class Stream:
    """One request and the stream that answers it."""

    def __init__(self, address: tuple[str, int], body: dict[str, Any]):
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        self.socket = socket.create_connection(address)
        self.parts: list[bytes] = []
        self.times: list[float] = []
        """When something came, the first time the head."""

    def send(self) -> None:
        """Send the request."""
        self.socket.sendall(self.request)

    def read(self) -> bool:
        """Read what has come; whether more will."""
        part = self.socket.recv(1 << 16)
        if part:
            self.parts.append(part)
            if b"data: " in part:
                self.times.append(time.perf_counter())
        else:
            self.socket.close()
        return bool(part)

    def report(self, start: float) -> dict[str, Any]:
        """What was seen: seconds until the first token and the end, the longest silence between, tokens."""
        answer = b"".join(self.parts)
        if not answer.startswith(b"HTTP/1.1 200") or END not in answer:
            return {"error": answer[:400].decode(errors="replace")}
        last = [line for line in answer.split(b"\n") if line.startswith(b"data: {")][-1]
        tokens = json.loads(last.removeprefix(b"data: "))["usage"]["completion_tokens"]
        gaps = [b - a for a, b in zip(self.times, self.times[1:])]
        return {
            "first": self.times[0] - start,
            "end": self.times[-1] - start,
            "gap": max(gaps, default=0.0),
            "tokens": tokens,
        }


def ask(address: tuple[str, int], bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Send all bodies, read all answers."""
    streams = [Stream(address, body) for body in bodies]
    with selectors.DefaultSelector() as selector:
        start, used = time.perf_counter(), time.process_time()
        for stream in streams:
            stream.send()
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.read():
                    selector.unregister(key.fileobj)
        seconds = time.perf_counter() - start
    reports = [stream.report(start) for stream in streams]
    cpu = time.process_time() - used
    return {"seconds": seconds, "cpu": cpu, "answers": reports}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(ask((asked["host"], asked["port"]), asked["bodies"]), sys.stdout)
