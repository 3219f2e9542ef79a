"""A server that plays written answers: the real page and live feed, and a chat that goes as far as a test lets it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from scripted_answer import Answer, result, updates, vocabulary

from mvjax.engine.stats import EngineStats
from mvjax.serving.branches import Branches
from mvjax.serving.live import LiveFeed, live_router
from mvjax.serving.page_files import page_router


class Double:
    """Serves on a free port of this machine while entered.

    Args:
        answers: what chats get, in turn; the last one stays.
        rows: branches that run at the same time.
        key: API key; "" for none.
        texts: whether the live feed has them.
    """

    def __init__(self, *answers: Answer, rows: int = 16, key: str = "", texts: bool = True):
        self.answers, self.rows, self.key = list(answers), rows, key
        self.tokenizer = vocabulary(*answers)
        self.feed = LiveFeed("demo-135m", self.tokenizer, interval=0.02, texts=texts)
        self.asked: list[dict] = []
        """Bodies of the chats."""
        self.error: str | None = None
        """What a chat ends with, after its first step."""
        self._allowed, self._ticket, self._made = threading.Semaphore(0), 0, 0
        app = FastAPI()
        app.include_router(page_router())
        app.include_router(live_router(self.feed))
        app.middleware("http")(self._check)
        app.get("/v1/models")(lambda: {"data": [{"id": "demo-135m"}]})
        app.post("/v1/chat/completions")(self._chat)
        config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Double:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.close()
        self.allow(10**4)
        self._server.should_exit = True
        self._thread.join()

    def allow(self, steps: int) -> None:
        """Let the chat make more steps."""
        self._allowed.release(steps)

    def submit(self, name: str, answer: Answer | None = None, steps: int = 10**6, ended: bool = False) -> None:
        """A request of somebody else, which makes some steps."""
        self._ticket += 1
        self.feed.submitted(self._ticket, name, 12)
        if answer is not None:
            for step, _ in zip(updates(answer, self.tokenizer, self.rows), range(steps)):
                self._tell(self._ticket, step)
            if ended:
                self.feed.ended(self._ticket, result(answer), None)

    def _tell(self, ticket: int, step: list) -> None:
        self.feed.tokens(ticket, step)
        self._made += len(step)
        numbers = {"rows": len(step), "pages_used": 3 + self._made // 40, "pages": 64}
        stats = EngineStats(*[0] * len(EngineStats._fields))
        self.feed.stay(stats._replace(generation_tokens=self._made, running=1, **numbers), 0.1)

    async def _check(self, request: Request, go_on):
        path = request.url.path
        is_open = path == "/" or path.startswith("/page/")
        if self.key and not is_open and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "the API key is missing or wrong"}}, 401)
        return await go_on(request)

    async def _chat(self, request: Request) -> StreamingResponse:
        self.asked.append(await request.json())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self._ticket += 1
        ticket = self._ticket
        self.feed.submitted(ticket, request.headers["x-request-id"], 12)
        return StreamingResponse(self._events(ticket, answer), media_type="text/event-stream")

    async def _events(self, ticket: int, answer: Answer) -> AsyncIterator[bytes]:
        branches = Branches(self.tokenizer, self.tokenizer.tables(), 40)

        def chunk(delta: dict, **more) -> bytes:
            choices = [{"index": 0, "delta": delta, "finish_reason": None} | more]
            return f"data: {json.dumps({'choices': choices})}\n\n".encode()

        made, whole = result(answer), False
        try:
            for number, step in enumerate(updates(answer, self.tokenizer, self.rows)):
                if self.error and number:
                    yield f"data: {json.dumps({'error': {'message': self.error}})}\n\n".encode()
                    return
                while not self._allowed.acquire(blocking=False):
                    await asyncio.sleep(0.01)
                self._tell(ticket, step)
                for event in branches.add(step):
                    yield chunk({"branch": event._asdict()})
                    if event.event == "text" and not event.address:
                        yield chunk({"content": event.text})
            whole = True
        finally:  # The client may have gone.
            self.feed.ended(ticket, made if whole else result(answer, reason="cancelled"), None)
        yield chunk({}, finish_reason="stop")
        usage = {"prompt_tokens": 12, "completion_tokens": made.new_tokens}
        usage |= {"critical_path_tokens": made.critical_path, "degree": made.degree}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"
