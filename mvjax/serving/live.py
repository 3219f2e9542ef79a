"""What runs, live: the feed that the page shows, and GET /live, an event stream with ids and a snapshot.

Events (`event:` and JSON in `data:`), each with an id:

    snapshot   {model, stats, requests: [request ...]}, first, and again where a reader was too far behind
    request    a request: {id, state, prompt_tokens, tokens, critical_path, degree, segments: [segment ...], ...}
    branch     {id, address, event: fork|start|text|end|reduce, text, position}: as `delta.branch` of a chat's stream
    progress   {id, tokens, critical_path, degree}
    ended      {id, reason, tokens, critical_path, degree, cuts: {address: reason}, abandoned, error}
    stats      {running, waiting, rows, pages_used, pages, tokens_per_second, degree}

A segment is {address, first, last, tokens, state, cut, abandoned, texts, blocks}: its text before, between and behind
its blocks, and these as {ordinal, count, reduced}. Positions are rotary and count from the end of the prompt.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from mvjax.serving.live_request import LiveRequest

if TYPE_CHECKING:
    from mvjax.engine.request import TokenUpdate
    from mvjax.engine.result import Result
    from mvjax.engine.stats import EngineStats

logger = logging.getLogger("mvjax.serving")

ENDED_SHOWN = 8
"""Requests that have ended and are still in a snapshot."""
RATE_SECONDS = 3.0
"""Tokens per second are counted over this long."""


class LiveFeed:
    """An observer of the driver whose events viewers read.

    On the driver's thread it only keeps what it is given. Texts are made on the event loop, while somebody watches. All
    viewers share one bounded list of events; one that falls behind it gets a snapshot.

    Args:
        model: name of the model.
        tokenizer: of the engine; also set later, when there is one. Without it there are no segments.
        texts: whether segments and events carry texts.
        kept: events that are kept for readers that come back or are slow.
        interval: seconds between two looks at what is new.
        linger: seconds for which it goes on when the last viewer has gone, who may come back.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any = None,
        *,
        texts: bool = True,
        kept: int = 4096,
        interval: float = 0.1,
        linger: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.model, self.tokenizer = model, tokenizer
        self._texts, self._interval, self._linger, self._clock = texts, interval, linger, clock
        self._epoch = secrets.token_hex(4)
        """Part of the ids: those of a server that ran before are none of ours."""
        self._events: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=kept)
        self._next = 1
        self._lock = threading.Lock()
        """Guards the rest, which the driver's thread writes."""
        self._requests: dict[int, LiveRequest] = {}
        self._fresh: list[LiveRequest] = []
        """Submitted since the last look."""
        self._gone: collections.deque[LiveRequest] = collections.deque()
        """Ended, the latest last."""
        self._stats: EngineStats | None = None
        self._rates: collections.deque[tuple[float, int]] = collections.deque()
        self._told: dict[str, Any] = {}
        self._viewers = 0
        self._pump: asyncio.Task[None] | None = None
        self._news: asyncio.Event | None = None
        self._closed = False

    # On the driver's thread.

    def submitted(self, ticket: int, request_id: str, prompt_tokens: int) -> None:
        request = LiveRequest(request_id or str(ticket), prompt_tokens)
        with self._lock:
            self._requests[ticket] = request
            self._fresh.append(request)

    def tokens(self, ticket: int, updates: list[TokenUpdate]) -> None:
        with self._lock:
            if (request := self._requests.get(ticket)) is not None:
                request.hear(updates)

    def ended(self, ticket: int, result: Result | None, error: Exception | None) -> None:
        with self._lock:
            if (request := self._requests.pop(ticket, None)) is None:
                return
            request.end(result, error)
            self._gone.append(request)
            while len(self._gone) > ENDED_SHOWN and (self._pump is None or self._gone[0].told_end):
                self._gone.popleft()
            if self._pump is None:
                self._fresh = [one for one in self._fresh if one.running]

    def stay(self, stats: EngineStats, seconds: float) -> None:
        now = self._clock()
        with self._lock:
            before = self._stats.generation_tokens if self._stats is not None else 0
            self._stats = stats
            new = stats.generation_tokens - before
            self._rates.append((now, new if new >= 0 else stats.generation_tokens))
            while self._rates and now - self._rates[0][0] > RATE_SECONDS:
                self._rates.popleft()

    # On the event loop.

    def close(self) -> None:
        """End all streams: the server shuts down."""
        self._closed = True
        if self._news is not None:
            self._news.set()

    def advance(self) -> None:
        """Turn what is new into events."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
            shown = [*self._gone, *self._requests.values()]
            given = [(request, request.take()) for request in shown]
        for request in fresh:
            self._add("request", request.state_before())
        for request, updates in given:
            try:
                for kind, data in request.read(self.tokenizer, updates, self._texts):
                    self._add(kind, {"id": request.id, **data})
            except Exception:  # What one request holds must not hide the others.
                logger.exception("the live feed cannot show request %s", request.id)
                request.told_end = not request.running
        with self._lock:
            while len(self._gone) > ENDED_SHOWN:
                self._gone.popleft()
        if (stats := self.stats()) != self._told:
            self._told = stats
            self._add("stats", stats)

    def stats(self) -> dict[str, Any]:
        """What the engine is doing now."""
        with self._lock:
            stats, now = self._stats, self._clock()
            shown = [*self._gone, *self._requests.values()]
            waiting = sum(not request.started for request in self._requests.values())
            tokens = sum(count for when, count in self._rates if now - when <= RATE_SECONDS)
        made, path = (sum(getattr(one, name) for one in shown) for name in ("tokens", "critical_path"))
        return {
            "running": len(self._requests) - waiting,
            "waiting": waiting,
            "rows": stats.rows if stats is not None and self._requests else 0,
            "pages_used": stats.pages_used if stats is not None else 0,
            "pages": stats.pages if stats is not None else 0,
            "tokens_per_second": round(tokens / RATE_SECONDS, 1),
            "degree": round(made / path, 2) if path else 1.0,
        }

    def snapshot(self) -> dict[str, Any]:
        """All that is shown, as of the last `advance`."""
        with self._lock:
            shown = [one for one in [*self._gone, *self._requests.values()] if one not in self._fresh]
        return {
            "model": self.model,
            "stats": self._told or self.stats(),
            "requests": [request.shown(self._texts) for request in shown],
        }

    async def stream(self, last_id: str = "", keep_alive: float = 15.0) -> AsyncIterator[bytes]:
        """The events for one viewer: those after `last_id` where they are kept, a snapshot where they are not.

        Args:
            keep_alive: seconds of silence after which a comment is sent.
        """
        self._start()
        self._viewers += 1
        try:
            at = self._place(last_id)
            while not self._closed:
                news = self._news
                assert news is not None
                if at is None or at < self._next - len(self._events):
                    at = self._next
                    yield self._encoded("snapshot", self.snapshot(), at - 1)
                    continue
                for number, event in self._since(at):
                    at = number + 1
                    yield event
                try:
                    await asyncio.wait_for(news.wait(), keep_alive)
                except TimeoutError:
                    yield b": keep-alive\n\n"
        finally:
            self._viewers -= 1

    def _since(self, at: int) -> list[tuple[int, bytes]]:
        return list(itertools.islice(self._events, max(len(self._events) - (self._next - at), 0), None))

    def _place(self, last_id: str) -> int | None:
        """The number of the event after that of this id; None where that is no event of ours or not kept."""
        epoch, _, number = last_id.rpartition("-")
        if epoch != self._epoch or not number.isdecimal() or len(number) > 18 or int(number) >= self._next:
            return None
        return int(number) + 1

    def _start(self) -> None:
        if self._pump is None or self._pump.done():
            self._events.clear()  # Nobody has looked for a time: what came in between is in no event.
            self._next += 1
            self._news = asyncio.Event()
            self.advance()
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        alone = 0.0
        while not self._closed and alone < self._linger:
            await asyncio.sleep(self._interval)
            alone = 0.0 if self._viewers else alone + self._interval
            before = self._next
            self.advance()
            if self._next != before and self._news is not None:
                self._news.set()
                self._news = asyncio.Event()
        with self._lock:
            self._pump = None

    def _add(self, kind: str, data: dict[str, Any]) -> None:
        self._events.append((self._next, self._encoded(kind, data, self._next)))
        self._next += 1

    def _encoded(self, kind: str, data: dict[str, Any], number: int) -> bytes:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"id: {self._epoch}-{number}\nevent: {kind}\ndata: {text}\n\n".encode()


def live_router(feed: LiveFeed, dependencies: Sequence[Any] = ()) -> APIRouter:
    """GET /live. It tells what all requests say: mount it behind the API key."""
    router = APIRouter(dependencies=list(dependencies))

    @router.get("/live", include_in_schema=False)
    async def live(request: Request) -> StreamingResponse:
        events = feed.stream(request.headers.get("last-event-id", ""))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router
