"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mvjax.engine import Prompt
from mvjax.serving.answers import Completion as CompletionAnswer
from mvjax.serving.errors import ApiError
from mvjax.serving.fields.completions import DEFAULT_TOKENS, CompletionFields
from mvjax.serving.generation import Choice, Generation
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import GENERATES, documented
from mvjax.serving.service import Service
from mvjax.serving.sse import DONE, KEEP_ALIVE, EventStream, event, whole
from mvjax.serving.token_logprobs import completion_logprobs, name_of
from mvjax.serving.usage import usage, usage_so_far

router = APIRouter(route_class=StrictRoute, tags=["generation"])


@router.post("/v1/completions", response_model=None, responses=documented(CompletionAnswer, *GENERATES, stream=True))
async def completions(fields: CompletionFields, request: Request) -> Response:
    """Go on after a text or token ids."""
    service: Service = request.app.state.service
    completion = Completion(service, fields)
    generation = await completion.ask(request.state.request_id)
    if not fields.stream:
        return await whole(generation, request, lambda: Json(completion.whole(generation)))
    stream = completion.stream(generation)
    return EventStream(generation, stream, lambda error: event(error.body), request.app.state.abort)


class Completion:
    """One call."""

    def __init__(self, service: Service, fields: CompletionFields):
        self.service, self.fields = service, fields
        model = service.model_name(fields.model)
        self.head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        options = fields.stream_options
        self.with_usage, self.with_counts = (False, False) if options is None else options.usage()
        if options is not None and (not fields.stream or options.include_branches):
            raise ApiError(400, "stream_options: for streams, and branches for chats only", param="stream_options")
        service.check_logprobs("logprobs", fields.logprobs)
        self.stops = service.stops(fields.stop)
        self.prompts, self.all_prompts = fields.prompts(), list[Prompt]()
        self.n = service.count(len(self.prompts), fields.n)
        if fields.max_tokens == 0 and not fields.echo:
            raise ApiError(400, "max_tokens = 0: nothing to answer; give 1 or more, or echo", param="max_tokens")
        if fields.echo and fields.logprobs is not None and service.scorer is None:
            raise ApiError(
                400,
                "echo with logprobs: log-probabilities of prompts are not computed here",
                param="echo",
            )
        self.echoed: list[list[Any]] = []
        """Of each prompt, where it is echoed with log-probabilities: what `completion_logprobs` takes."""

    async def ask(self, request_id: str) -> Generation:
        """Put the questions to the engine."""
        fields, service = self.fields, self.service
        mode = service.mode(fields, DEFAULT_TOKENS if fields.max_tokens is None else fields.max_tokens)
        prompts = []
        for its in self.prompts:
            special = fields.add_special_tokens
            tokens = await service.tokenizing(service.encode, its, special) if isinstance(its, str) else its
            if not tokens:
                raise ApiError(400, "prompt: it is empty; give at least one token", param="prompt")
            prompts.append(Prompt(tokens).validate("prompt", len(service.vocabulary.codes), 0))
        # Nothing is generated of a limit of 0, but the engine's checks hold for such prompts too.
        most = {"named": max(fields.max_tokens, 1) if fields.max_tokens is not None else None}
        questions = service.questions(fields, prompts, self.n, mode, **most, default=DEFAULT_TOKENS)
        if fields.echo and fields.logprobs is not None:
            self.echoed = [await service.prompt_logprobs(prompt, fields.logprobs) for prompt in prompts]
        if fields.max_tokens == 0:
            questions = []
        logprobs = fields.logprobs is not None
        self.all_prompts = [prompt for prompt in prompts for _ in range(self.n)]
        return service.generation(questions, fields, request_id, stop=self.stops, logprobs=logprobs)

    def echo(self, index: int) -> str:
        """What stands before an answer."""
        if not self.fields.echo:
            return ""
        return self.service.tokenizer.decode(self.all_prompts[index].tokens)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The answers, when all have ended."""
        choices = [self.choice(choice.index, choice) for choice in generation.choices]
        its = usage(generation.choices)
        if self.fields.max_tokens == 0:
            choices = [self.choice(index, None) for index in range(len(self.all_prompts))]
            sent = sum(len(prompt.tokens) for prompt in self.all_prompts[:: self.n])
            its |= {"prompt_tokens": sent, "total_tokens": sent}
        return {**self.head, "object": "text_completion", "choices": choices, "usage": its}

    def choice(self, index: int, choice: Choice | None) -> dict[str, Any]:
        """One of them; None: nothing was generated behind the prompt."""
        text = self.echo(index)
        logprobs = self.logprobs(choice.logprobs if choice else (), len(text), self.echoed_at(index))
        reasoning = {"reasoning": choice.reasoning} if choice and choice.reasoning else {}
        text += choice.content if choice else ""
        reason = choice.finish_reason if choice else "length"
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, **reasoning}

    def echoed_at(self, index: int) -> list[Any]:
        """Log-probabilities of the prompt of an answer."""
        return self.echoed[index // self.n] if self.echoed else []

    def logprobs(self, tokens, offset: int, echoed=()) -> dict[str, Any] | None:
        """Of tokens of the content, where they were asked for.

        Args:
            offset: of the first in the text, those of the prompt not counted.
            echoed: of the prompt, which stand before.
        """
        alternatives, tokenizer = self.fields.logprobs, self.service.tokenizer
        if alternatives is None:
            return None
        shown = completion_logprobs(tokenizer, tokens, alternatives, offset)
        if not echoed:
            return shown
        before = completion_logprobs(tokenizer, echoed, alternatives)
        return {name: before[name] + shown[name] for name in shown}

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """The same as it comes."""
        head: dict[str, Any] = {**self.head, "object": "text_completion"}
        offsets: dict[int, int] = {}
        if self.with_usage:
            head["usage"] = None

        def chunk(index: int, text: str, reason: str | None = None, **more: Any) -> bytes:
            its = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, **more}
            so_far = {"usage": usage_so_far(generation.choices)} if self.with_counts else {}
            return event({**head, "choices": [its], **so_far})

        for index in range(len(self.all_prompts)):
            text = self.echo(index)
            offsets[index] = len(text)
            reason = "length" if self.fields.max_tokens == 0 else None
            if text or reason:
                logprobs = self.logprobs((), len(text), self.echoed_at(index)) if self.echoed else None
                yield chunk(index, text, reason, logprobs=logprobs)
        async for change in generation.changes(self.service.config.keep_alive):
            if change is None:
                yield KEEP_ALIVE
                continue
            index, data = change.choice.index, []
            for piece in change.pieces:
                if piece.kind != "content":
                    data.append(chunk(index, "", reasoning=piece.text))
                    continue
                logprobs = self.logprobs(piece.logprobs, offsets[index])
                offsets[index] += sum(len(name_of(self.service.tokenizer, one.token)) for one in piece.logprobs)
                data.append(chunk(index, piece.text, logprobs=logprobs))
            if change.choice.result is not None:
                data.append(chunk(index, "", change.choice.finish_reason))
            if data:
                yield b"".join(data)
        if self.with_usage:
            yield event({**head, "choices": [], "usage": self.whole(generation)["usage"]})
        yield DONE
