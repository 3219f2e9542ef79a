"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mvjax.serving.answers import ChatCompletion
from mvjax.serving.auth import key_of
from mvjax.serving.errors import ApiError
from mvjax.serving.fields.chat import ChatFields
from mvjax.serving.generation import Choice, Generation
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import GENERATES, documented
from mvjax.serving.service import Service
from mvjax.serving.sse import DONE, KEEP_ALIVE, EventStream, event, whole
from mvjax.serving.token_logprobs import chat_logprobs
from mvjax.serving.usage import usage, usage_so_far

router = APIRouter(route_class=StrictRoute, tags=["generation"])


@router.post("/v1/chat/completions", response_model=None, responses=documented(ChatCompletion, *GENERATES, stream=True))
async def chat_completions(fields: ChatFields, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    chat = Chat(service, fields, key_of(request.headers))
    generation = await chat.ask(request.state.request_id)
    if not fields.stream:
        return await whole(generation, request, lambda: Json(chat.completion(generation)))
    return EventStream(generation, chat.stream(generation), lambda error: event(error.body), request.app.state.abort)


class Chat:
    """One call."""

    def __init__(self, service: Service, fields: ChatFields, key: str):
        self.service, self.fields, self.key = service, fields, key
        self.model = service.model_name(fields.model)
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}
        options = fields.stream_options
        self.with_usage, self.with_counts = (False, False) if options is None else options.usage()
        self.with_branches = bool(fields.include_branches or (options and options.include_branches))
        self.alternatives = (fields.top_logprobs or 0) if fields.logprobs else None
        if fields.top_logprobs and not fields.logprobs:
            raise ApiError(400, "top_logprobs: set logprobs to true as well", param="top_logprobs")
        service.check_logprobs("top_logprobs", self.alternatives)
        self.stops, self.n = service.stops(fields.stop), service.count(1, fields.n)
        self.messages = fields.conversation()

    async def ask(self, request_id: str) -> Generation:
        """Put the questions to the engine."""
        fields, service = self.fields, self.service
        mode = service.mode(fields, fields.most_new)
        its = {"suffix": fields.prompt_suffix, "options": fields.chat_template_kwargs}
        prompt = await service.chat_prompt(self.messages, key=self.key, mode=mode, **its)
        most = {"named": fields.most_new, "default": service.config.max_tokens}
        questions = service.questions(fields, [prompt], self.n, mode, **most)
        logprobs = self.alternatives is not None
        return service.generation(questions, fields, request_id, stop=self.stops, logprobs=logprobs)

    def completion(self, generation: Generation) -> dict[str, Any]:
        """The answers, when all have ended."""
        for choice in generation.choices:
            self.service.remember(self.messages, choice, self.key)
        choices = [
            {
                "index": choice.index,
                "message": self.message(choice),
                "logprobs": self.logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in generation.choices
        ]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage(generation.choices)}

    def message(self, choice: Choice) -> dict[str, Any]:
        """An answer."""
        message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
        if choice.reasoning:
            message[self.service.config.reasoning_name] = choice.reasoning
        if self.with_branches and choice.result is not None:
            message["branches"] = choice.text.tree(choice.result)
        return message

    def logprobs(self, tokens) -> dict[str, Any] | None:
        """Of tokens of the content, where they were asked for."""
        if self.alternatives is None:
            return None
        shown = chat_logprobs(self.service.tokenizer, tokens, self.alternatives)
        return {"content": shown, "refusal": None}

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """The same as it comes."""
        config = self.service.config
        head: dict[str, Any] = {**self.head, "object": "chat.completion.chunk"}
        if self.with_usage:
            head["usage"] = None

        def chunk(choice: Choice, delta: dict[str, Any], **more: Any) -> bytes:
            logprobs = more.pop("logprobs", None)
            its = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": None, **more}
            so_far = {"usage": usage_so_far(generation.choices)} if self.with_counts else {}
            return event({**head, "choices": [its], **so_far})

        for choice in generation.choices:
            yield chunk(choice, {"role": "assistant", "content": ""})
        async for change in generation.changes(config.keep_alive):
            if change is None:
                yield KEEP_ALIVE
                continue
            choice, data = change.choice, []
            if self.with_branches:
                data += [chunk(choice, {"branch": happened._asdict()}) for happened in change.events]
            for piece in change.pieces:
                name = "content" if piece.kind == "content" else config.reasoning_name
                logprobs = self.logprobs(piece.logprobs) if piece.kind == "content" else None
                data.append(chunk(choice, {name: piece.text}, logprobs=logprobs))
            if choice.result is not None:
                self.service.remember(self.messages, choice, self.key)
                data.append(chunk(choice, {}, finish_reason=choice.finish_reason))
            if data:
                yield b"".join(data)
        if self.with_usage:
            yield event({**head, "choices": [], "usage": usage(generation.choices)})
        yield DONE
