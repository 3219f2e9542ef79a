"""Answers over HTTP: as a stream of server-sent events, or whole. Either ends when its client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mvjax.serving.answer_text import Piece
from mvjax.serving.errors import ApiError, as_api_error
from mvjax.serving.generation import Generation
from mvjax.serving.json_text import dumps

logger = logging.getLogger("mvjax.serving")

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

Abort = Callable[[Scope], None]
"""Cuts the connection of a request at once."""


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event of a stream; name: where its kind is not said by the data alone."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {dumps(data)}\n\n".encode()


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_of(work: Awaitable[Any], receive: Receive, generation: Generation) -> Any:
    """The result of the work; None where the client goes away before, or reads too slowly. All that runs ends then."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    generation.mailbox.on_overflow = working.cancel
    if generation.mailbox.overflowed:  # Before this began.
        working.cancel()
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        generation.cancel()
        unfinished = [task for task in (working, watching) if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
    return None if working.cancelled() else working.result()


async def whole(
    generation: Generation,
    request: Request,
    finished: Callable[[], Response],
    take: Callable[[list[Piece]], object] = lambda pieces: None,
) -> Response:
    """Wait for the answers; then the response that `finished` makes of them.

    Args:
        take: is given the text that has become final, as it comes.
    """

    async def collect() -> Response:
        async for change in generation.changes():
            if change is not None:
                take(change.pieces)
        return finished()

    response = await first_of(collect(), request.receive, generation)
    return response if response is not None else Response(status_code=499)  # Nobody is there to read it.


class EventStream(Response):
    """A stream of events of one generation.

    Args:
        events: the stream, from what happens; it is closed at the end.
        failed: events that tell of an error after the stream has begun.
        abort: cuts a connection whose client does not read.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        events: AsyncIterator[bytes],
        failed: Callable[[ApiError], bytes],
        abort: Abort,
    ):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.generation, self.events, self.failed, self.abort = generation, events, failed, abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await first_of(self._send(send), receive, self.generation)
        if self.generation.mailbox.overflowed:
            logger.warning("a client read too slowly; its connection was cut")
            self.abort(scope)
            with contextlib.suppress(TimeoutError):  # The server is to know of it before this ends.
                await asyncio.wait_for(gone(receive), 1)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def body(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async for data in self.events:
                await body(data)
        except Exception as error:
            told = as_api_error(error)
            if told is not error:
                logger.exception("a stream failed")
            await body(self.failed(told))
        await body(b"", more=False)
