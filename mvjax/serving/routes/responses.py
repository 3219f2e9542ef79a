"""POST /v1/responses: each branch is a reasoning item with its address, only the answer is a message."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mvjax.serving.answers import Response as ResponseAnswer
from mvjax.serving.auth import key_of
from mvjax.serving.errors import ApiError
from mvjax.serving.fields.responses import ResponseFields
from mvjax.serving.generation import Generation
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import GENERATES, documented
from mvjax.serving.routes.response_items import Items
from mvjax.serving.service import Service
from mvjax.serving.sse import KEEP_ALIVE, EventStream, event, whole
from mvjax.serving.usage import response_usage

router = APIRouter(route_class=StrictRoute, tags=["generation"])


@router.post("/v1/responses", response_model=None, responses=documented(ResponseAnswer, *GENERATES, stream=True))
async def responses(fields: ResponseFields, request: Request) -> Response:
    """Answer a conversation, as the Responses API has it."""
    call = ResponseCall(request.app.state.service, fields, key_of(request.headers))
    generation = await call.ask(request.state.request_id)
    if not fields.stream:
        return await whole(generation, request, lambda: Json(call.finished(generation)), call.take)
    return EventStream(generation, call.stream(generation), call.failed, request.app.state.abort)


class ResponseCall:
    """One call."""

    def __init__(self, service: Service, fields: ResponseFields, key: str):
        self.service, self.fields, self.key = service, fields, key
        self.model, self.name, self.created = service.model_name(fields.model), uuid.uuid4().hex, int(time.time())
        self.stops, self.messages = service.stops(fields.stop), fields.conversation_messages()
        self.items, self._numbers = Items(self.name), itertools.count()

    async def ask(self, request_id: str) -> Generation:
        """Put the question to the engine."""
        fields, service = self.fields, self.service
        mode = service.mode(fields, fields.max_output_tokens)
        its = {"suffix": fields.prompt_suffix, "options": fields.chat_template_kwargs}
        prompt = await service.chat_prompt(self.messages, key=self.key, mode=mode, **its)
        most = {"named": fields.max_output_tokens, "default": service.config.max_tokens}
        questions = service.questions(fields, [prompt], 1, mode, **most)
        return service.generation(questions, fields, request_id, stop=self.stops)

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        """The response as it is."""
        fields, config = self.fields, self.service.config
        return {
            "id": f"resp_{self.name}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "metadata": fields.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": config.temperature if fields.temperature is None else fields.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if fields.top_p is None else fields.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": fields.user,
            **more,
        }

    def take(self, pieces) -> list[tuple[str, dict[str, Any]]]:
        """Text that is final; the events that tell of it."""
        return [happened for piece in pieces for happened in self.items.take(piece)]

    def finished(self, generation: Generation) -> dict[str, Any]:
        """The response, when the answer has ended."""
        list(self.items.end(self.status(generation) == "completed"))
        choice = generation.choices[0]
        self.service.remember(self.messages, choice, self.key)
        status = self.status(generation)
        details = None if status == "completed" else {"reason": "max_output_tokens"}
        usage = response_usage(choice, self.service.vocabulary.codes)
        return self.response(status, output=self.items.items, usage=usage, incomplete_details=details)

    def status(self, generation: Generation) -> str:
        """Whether a limit ended the answer."""
        return "completed" if generation.choices[0].finish_reason == "stop" else "incomplete"

    def event(self, kind: str, data: dict[str, Any]) -> bytes:
        """An event of the stream; they are numbered."""
        return event({"type": kind, "sequence_number": next(self._numbers), **data}, kind)

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """The same as it comes."""
        for kind in ("response.created", "response.in_progress"):
            yield self.event(kind, {"response": self.response("in_progress")})
        async for change in generation.changes(self.service.config.keep_alive):
            if change is None:
                yield KEEP_ALIVE
            elif data := [self.event(*happened) for happened in self.take(change.pieces)]:
                yield b"".join(data)
        status = self.status(generation)
        yield b"".join(self.event(*happened) for happened in self.items.end(status == "completed"))
        yield self.event(f"response.{status}", {"response": self.finished(generation)})

    def failed(self, error: ApiError) -> bytes:
        """That the answer failed."""
        told = error.body["error"]
        code = told["code"] or "server_error"
        data = self.event("error", {"code": code, "message": told["message"], "param": told["param"]})
        details = {"code": "server_error", "message": told["message"]}
        return data + self.event("response.failed", {"response": self.response("failed", error=details)})
