"""A thousand requests of 64 clients over HTTP, every tenth of which does harm, and a SIGTERM before the end."""

import collections
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from served_hash import build_engine, strict_events

from mvjax.engine import Limits, SamplingParams
from mvjax.serving.answer_text import AnswerText

pytestmark = pytest.mark.slow
REQUESTS, CLIENTS, KINDS, STEADY, TERMINATED = 1000, 64, 48, 200, 950
FAULTS = ("bad body", "goes", "resets", "goes late", "reads slowly")
MODES = ("parallel", "sequential", "autoregressive")
LIMITS = {"max_tokens": 70, "min_block_share": 30, "max_paths": 4}
SUPPORT = Path(__file__).parents[1] / "support"
SERVER = """
import json
from served_hash import Connections, Driver, Server, ServingConfig, bind, build_engine, create_app
driver, connections, listening = Driver(build_engine), Connections(), bind("127.0.0.1", 0)
driver.start()
server = Server(create_app(driver, ServingConfig(), abort=connections.abort), driver, connections, 60.0)
server.ready = lambda: print(listening.getsockname()[1], flush=True)
server.run(sockets=[listening])
stats = driver.stats()
print(json.dumps(stats._asdict()), flush=True)
driver.stop()
"""


def body(kind):
    """One of the kinds of requests; every second one is a stream."""
    rng = random.Random(kind)
    prompt = [rng.randrange(20, 40) for _ in range(rng.choice([3, 10, 50, 90]))]
    drawn = {"temperature": 2.0, "top_k": 30, "seed": kind, "mode": MODES[kind % 3], "branches": "transcript"}
    return {"prompt": prompt, "stream": kind % 2 == 0, **drawn, **LIMITS}


@pytest.fixture(scope="module")
def wanted():
    """Of each kind, the text of what a bare engine answers."""
    engine, found = build_engine(), []
    limits = Limits(max_new_tokens=70, min_block_share=30, max_paths=4)
    for kind in range(KINDS):
        asked = body(kind)
        sampling = SamplingParams(temperature=2.0, top_k=30, seed=kind)
        (result,) = engine.generate([asked["prompt"]], limits=limits, sampling=sampling, mode=asked["mode"])
        text = AnswerText(engine.tokenizer, len(asked["prompt"]) - 1, branches="transcript")
        found.append("".join(piece.text for piece in text.finish(result)[0]))
    return found


@contextlib.contextmanager
def server():
    """A process that serves the hash model, and its port."""
    paths = os.pathsep.join([str(SUPPORT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()


def memory(process):
    """Bytes that a process holds."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def ask(port, kind):
    """The text of an answer; None where the server takes no requests any more."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body(kind)), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read().decode()
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()
    if response.status == 503:
        return None
    assert response.status == 200, data
    if not body(kind)["stream"]:
        (choice,) = json.loads(data)["choices"]
        return choice["text"]
    events = strict_events(data)
    assert events[-1] == "[DONE]"
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]].count(None) == len(events) - 2
    return "".join(event["choices"][0]["text"] for event in events[:-1])


def harm(port, kind, fault, rng):
    """A request of a client that behaves badly."""
    asked = json.dumps({**body(kind), "stream": True}).encode()
    if fault == "bad body":
        asked = asked[: rng.randrange(len(asked))]
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(asked)}"
    )
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(f"{head}\r\n\r\n".encode() + asked)
        if fault == "resets":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault == "bad body":
            assert line.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.1 503"))
        elif fault == "goes late":
            line.recv(1024)
        elif fault == "reads slowly":
            for _ in range(20):
                line.recv(32)
                time.sleep(0.05)


def test_a_soak(wanted):
    todo, ended = collections.deque(range(REQUESTS)), collections.Counter()
    wrong, held, lock = [], [], threading.Lock()
    with server() as (process, port):

        def client():
            while True:
                try:
                    number = todo.popleft()
                except IndexError:
                    return
                rng = random.Random(number)
                kind, fault = rng.randrange(KINDS), rng.choice(FAULTS) if number % 10 == 9 else None
                if fault is not None:
                    harm(port, kind, fault, rng)
                    ended[fault] += 1
                    continue
                text = ask(port, kind)
                with lock:
                    ended["refused" if text is None else "answered"] += 1
                    if text not in (None, wanted[kind]):
                        wrong.append((number, kind, text))
                    if text is None and process.poll() is None and not held[1:]:
                        wrong.append((number, kind, "refused before the signal"))
                    if ended["answered"] == STEADY:
                        held.append(memory(process))
                    if ended["answered"] == TERMINATED * 9 // 10:
                        held.append(memory(process))
                        process.send_signal(signal.SIGTERM)

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(900)
        assert process.wait(90) == 0
        stats = json.loads(process.stdout.read())
    assert not wrong
    assert sum(ended.values()) == REQUESTS
    assert min(ended[fault] for fault in FAULTS) > 0
    assert ended["answered"] >= TERMINATED * 9 // 10
    assert stats["running"] == stats["waiting"] == stats["pages_used"] == 0
    assert held[1] / held[0] < 1.02
