"""A served hash model: a real tokenizer over the vocabulary of `random_requests`, so that the programs are those of
`faulty_engine.shared_engine(True)`, a driver, and the app in a server of this process."""

import contextlib
import functools
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

import httpx
import tokenizers
from faulty_engine import SIZES, bias
from hash_model import PagedHashModel
from random_requests import TABLES, VOCABULARY
from tokenizers import decoders, models, pre_tokenizers

from mvjax.engine import Engine, EngineConfig
from mvjax.language import tags
from mvjax.serving.app import create_app
from mvjax.serving.driver import Driver
from mvjax.serving.server import Connections, Server, bind
from mvjax.serving.settings import ServingConfig
from mvjax.tokenizers.definition import DefinitionBackend
from mvjax.tokenizers.tokenizer import Settings, Tokenizer

END, OTHER_END = "<|end|>", "<|over|>"
EURO = "€"
TEMPLATE = (
    "{% if messages[0]['content'][:2] == 'no' %}{{ raise_exception('no is no question') }}{% endif %}"
    "{% for message in messages %}{{ message['content'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if calm is defined %}{{ 'h' }}{% endif %}"
)
"""Contents, one a line. It refuses one, and knows a variable of its own."""


def pieces() -> list[str]:
    """Tokens in the order of their ids: tags, an end, newline, colon, dot, digits, pairs with colons and newlines, the
    three bytes of the euro sign, a blank, letters, another end."""
    euro = [byte_level(bytes([byte])) for byte in EURO.encode()]
    pairs = [byte_level(text.encode()) for text in ("a:", "a\n", ":\n")]
    plain = [byte_level(text.encode()) for text in ("\n", ":", ".", *"0123456789")]
    return [*tags.TAGS, END, *plain, *pairs, *euro, byte_level(b" "), *"abcdefghij", OTHER_END]


def byte_level(data: bytes) -> str:
    """Bytes as byte-level vocabularies spell them."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if data in [bytes([byte]) for byte in EURO.encode()]:  # No text by itself.
        return alphabet.pre_tokenize_str(EURO)[0][0][EURO.encode().index(data)]
    return alphabet.pre_tokenize_str(data.decode())[0][0]


@functools.cache
def tokenizer() -> Tokenizer:
    """It spells what `pieces` has; other characters are dropped."""
    vocabulary = {piece: number for number, piece in enumerate(pieces())}
    assert len(vocabulary) == VOCABULARY
    merges = [("a", ":"), ("a", "Ċ"), (":", "Ċ")]
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*tags.TAGS, END, OTHER_END])
    backend = DefinitionBackend(json.loads(made.to_str()), "made for tests", TEMPLATE)
    found = Tokenizer(backend, Settings(eos=(END, OTHER_END), chat_template=TEMPLATE))
    assert found.tag_ids == TABLES.tag_ids
    return found


MODEL = "hash"
KEY = "sesame"


def build_engine(**changes) -> Engine:
    """The engine of `shared_engine(True)` with a tokenizer."""
    return Engine(PagedHashModel(bias(), 16), bias(), tokenizer(), EngineConfig(**SIZES, pages=13, **changes))


@contextlib.contextmanager
def driving(build=build_engine, **options) -> Iterator[Driver]:
    """A driver that has started."""
    driver = Driver(build, **options)
    driver.start()
    try:
        yield driver
    finally:
        driver.stop()


class Served:
    """A server in a thread of this process.

    Attributes:
        url: its address.
        client: of httpx, with the key if there is one.
    """

    def __init__(self, driver: Driver, config: ServingConfig, send_buffer: int | None = None, **options):
        self.driver, connections = driver, Connections()
        self.app = create_app(driver, config, abort=connections.abort, **options)
        self.server = Server(self.app, driver, connections, config.drain)
        self.socket = bind("127.0.0.1", 0)
        self.address = self.socket.getsockname()[:2]
        self.url = "http://{}:{}".format(*self.address)
        if send_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        until(lambda: self.server.started)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(20)
        self.app.state.service.close()
        assert not self.thread.is_alive()

    def chat(self, content="abc", **fields) -> dict:
        """The answer to a chat with one message."""
        response = self.client.post("/v1/chat/completions", json=body(content, **fields))
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, path, fields) -> list[dict | str]:
        """The events of a stream, read by a strict parser."""
        with self.client.stream("POST", path, json={**fields, "stream": True}) as response:
            text = b"".join(response.iter_raw()).decode()
            assert response.status_code == 200, text
            assert response.headers["content-type"].startswith("text/event-stream")
        return strict_events(text)

    def stream(self, content="abc", **fields) -> list[dict | str]:
        """The events of a streamed chat with one message."""
        return self.events("/v1/chat/completions", body(content, **fields))

    def idle(self) -> None:
        """Wait until nothing runs, waits or holds a page."""
        until(lambda: (stats := self.driver.stats()).running == stats.waiting == stats.pages_used == 0)


@contextlib.contextmanager
def serving(driver: Driver, **settings) -> Iterator[Served]:
    """A server around a driver; settings of `ServingConfig`, and `metrics`, `routers`, `scorer`, `send_buffer`."""
    options = {name: settings.pop(name) for name in ("metrics", "routers", "scorer", "send_buffer") if name in settings}
    served = Served(driver, ServingConfig(**{"models": (MODEL,), **settings}), **options)
    try:
        yield served
    finally:
        served.close()


def body(content="abc", **fields) -> dict:
    """Of a chat with one message, drawn from many tokens."""
    drawn = {"temperature": 2.0, "top_k": 30, "top_p": 0.98, "seed": 1, "min_block_share": 40, "max_paths": 4}
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 100, **drawn, **fields}


def until(holds, seconds=20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def strict_events(text: str) -> list[dict | str]:
    """Events of a stream, as its standard has them: fields, a blank line, comments. [DONE] stays text."""
    events = []
    assert text.endswith("\n\n"), "the last event is not complete"
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = {}
        for line in block.split("\n"):
            assert line, "an empty event"
            if line.startswith(":"):
                continue
            name, colon, value = line.partition(": ")
            assert colon, line
            assert name in ("event", "data"), line
            assert name not in fields, "a field twice"
            assert value.isascii()
            assert value.isprintable()
            fields[name] = value
        if not fields:
            continue
        data = fields["data"]
        if data == "[DONE]":
            events.append(data)
            continue
        event = json.loads(data, parse_constant=lambda name: 1 / 0)
        assert fields.get("event", event.get("type")) == event.get("type")
        events.append(event)
    return events


def joined(events, name="content", choice=0) -> str:
    """The text of a field of a chat's deltas."""
    deltas = [one["choices"][0] for one in events if isinstance(one, dict) and one.get("choices")]
    return "".join(one["delta"].get(name) or "" for one in deltas if one["index"] == choice)


def finish_reasons(events) -> dict[int, str]:
    """Of each choice."""
    choices = [one["choices"][0] for one in events if isinstance(one, dict) and one.get("choices")]
    return {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"] is not None}


class Gate:
    """An observer that holds the driver's thread after a step of the engine while it is closed."""

    def __init__(self):
        self.stats = None
        self._open, self._permits, self._held = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self._open.set()

    def submitted(self, ticket, request_id, prompt_tokens) -> None:
        """Nothing."""

    def tokens(self, ticket, updates) -> None:
        """Nothing."""

    def ended(self, ticket, result, error) -> None:
        """Nothing."""

    def stay(self, stats, seconds) -> None:
        self.stats = stats
        if not self._open.is_set():
            self._held.release()
            self._permits.acquire()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Steps wait for `let` until the end."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()
            self._permits.release()

    def wait(self) -> None:
        """Until a step has been done and is held."""
        assert self._held.acquire(timeout=20)

    def let(self, steps=1) -> None:
        """Let the thread go on for this number of steps, and wait for the last of them."""
        for _ in range(steps):
            self._permits.release()
            self.wait()


class RawClient:
    """A client on a socket of its own, that may go away as it likes."""

    def __init__(self, served: Served, fields: dict, receive_buffer: int | None = None):
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(served.address)
        data = json.dumps(fields).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        self.socket.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)

    def read(self, most=65536) -> bytes:
        self.socket.settimeout(20)
        return self.socket.recv(most)

    def rest(self) -> bytes:
        """What comes until the server ends the connection; then it is closed."""
        data = b""
        try:
            while more := self.read():
                data += more
        except ConnectionResetError:
            pass
        finally:
            self.close()
        return data

    def close(self, reset=False) -> None:
        if reset:  # Closing with a linger of zero sends a reset in place of a proper end.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
