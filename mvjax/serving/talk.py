"""Both ends of a conversation in a terminal: an engine of this process, or a server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mvjax.engine import Engine, Limits, Mode, Result, SamplingParams, TokenUpdate
from mvjax.errors import UserError
from mvjax.serving.answer_text import AnswerText
from mvjax.serving.branches import BranchEvent
from mvjax.serving.conversations import Conversations

Messages = Sequence[Mapping[str, str]]
OnEvents = Callable[[Sequence[BranchEvent]], None]
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 120.0
"""How long a server may take to be reached, and be silent in a stream (it sends comments)."""


class Said(NamedTuple):
    """An answer."""

    content: str
    """The text outside Think and blocks."""
    reason: str = "stop"
    tokens: int = 0
    critical_path: int = 0
    """0: not known."""
    degree: float = 1.0


class Talk(Protocol):
    """Who answers."""

    def answer(self, messages: Messages, on_events: OnEvents) -> Said:
        """Answer a conversation; `on_events` gets what happens in the branches.

        Raises:
            UserError: it cannot be answered.
            KeyboardInterrupt: the answer was interrupted and nothing of it is known.
        """
        ...

    def interrupt(self) -> bool:
        """End the answer that grows, from a signal handler; False: it can only be broken off."""
        ...


class LocalTalk:
    """Answers with an engine of this process.

    Args:
        suffix: what messages end with in place of the mode's training suffix; None: that.
    """

    def __init__(
        self, engine: Engine, *, mode: Mode, limits: Limits, sampling: SamplingParams, suffix: str | None = None
    ):
        self.engine, self.mode, self.limits, self.sampling, self.suffix = engine, mode, limits, sampling, suffix
        self._conversations = Conversations(engine.tokenizer, engine.vocabulary)
        self._number: int | None = None

    def answer(self, messages: Messages, on_events: OnEvents) -> Said:
        engine, conversations = self.engine, self._conversations
        prompt = conversations.prompt(messages, key="", mode=self.mode, suffix=self.suffix)
        room = engine.max_slots - len(prompt.tokens)
        if engine.max_position is not None:
            room = min(room, engine.max_position - 1 - prompt.last_position)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt.tokens)} tokens, and no room for an answer is left; begin a new one"
            )
        limits = dataclasses.replace(self.limits, max_new_tokens=min(self.limits.max_new_tokens, room))
        text = AnswerText(engine.tokenizer, prompt.last_position, vocabulary=engine.vocabulary)
        pieces = []

        def heard(updates: list[TokenUpdate]) -> None:
            new, events = text.add(updates)
            pieces.extend(new)
            on_events(events)

        self._number = engine.submit(prompt, limits=limits, sampling=self.sampling, mode=self.mode)
        try:
            results: list[Result] = []
            while not results:
                results = engine.step(heard)
            result = results[0].raise_if_failed()
            new, events = text.finish(result)
            on_events(events)
        finally:
            self._number = None
            if engine.busy:
                engine.reset()
        content = "".join(piece.text for piece in [*pieces, *new] if piece.kind == "content")
        conversations.remember(messages, content, prompt, result, key="")
        return Said(content, result.reason, result.new_tokens, result.critical_path, result.degree)

    def interrupt(self) -> bool:
        if self._number is not None:
            self.engine.cancel(self._number)
        return self._number is not None


class RemoteTalk:
    """Answers come from a server: `mvjax serve`, or another with OpenAI's API, which then shows no branches.

    Args:
        url: of the server, with or without /v1.
        fields: of every request, such as max_tokens.
        model: as the server names it; "": the first that it has.
    """

    def __init__(self, url: str, *, key: str = "", model: str = "", fields: Mapping[str, Any] = {}):
        import httpx

        base = url.rstrip("/")
        self._url = base if base.endswith("/v1") else f"{base}/v1"
        self._model, self._fields = model, dict(fields)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = httpx.Client(headers=headers, timeout=timeout)
            httpx.URL(self._url)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise UserError(f"{url}: {error}") from None

    @property
    def model(self) -> str:
        """The model's name; asked for once."""
        if not self._model:
            found = self._checked(self._client_call("GET", "/models")).json()
            self._model = found["data"][0]["id"]
        return self._model

    def answer(self, messages: Messages, on_events: OnEvents) -> Said:
        import httpx

        options = {"include_usage": True, "include_branches": True}
        body = {"model": self.model, "messages": list(messages), "stream": True, "stream_options": options}
        content, reason, usage, has_branches = "", "stop", {}, False
        try:
            with self._client.stream("POST", f"{self._url}/chat/completions", json=body | self._fields) as response:
                if response.status_code >= 400:
                    response.read()
                self._checked(response)
                for chunk in chunks(response.iter_lines()):
                    usage = chunk.get("usage") or usage
                    for choice in chunk.get("choices", []):
                        delta = choice.get("delta") or {}
                        reason = choice.get("finish_reason") or reason
                        text = delta.get("content") or ""
                        content += text
                        if branch := delta.get("branch"):
                            has_branches = True
                            on_events([BranchEvent(**branch)])
                        elif not has_branches and (told := text or delta.get("reasoning") or ""):
                            on_events([BranchEvent("", "text", told, 0)])
        except httpx.HTTPError as error:
            raise UserError(f"{self._url}: {error or type(error).__name__}; is the server running?") from None
        except KeyboardInterrupt:
            reason = "interrupted"
        tokens, path = usage.get("completion_tokens", 0), usage.get("critical_path_tokens", 0)
        return Said(content, reason, tokens, path, usage.get("degree", 1.0))

    def interrupt(self) -> bool:
        return False

    def _client_call(self, method: str, path: str) -> Any:
        import httpx

        try:
            return self._client.request(method, self._url + path)
        except httpx.HTTPError as error:
            raise UserError(f"{self._url}: {error or type(error).__name__}; is the server running?") from None

    def _checked(self, response: Any) -> Any:
        """The response; UserError with its message where it is an error."""
        if response.status_code < 400:
            return response
        try:
            message = response.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            message = response.reason_phrase
        hint = "; give --api-key, or set MVJAX_API_KEY" if response.status_code == 401 else ""
        raise UserError(f"{self._url} answered {response.status_code}: {message}{hint}")


def chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What the events of a stream hold. UserError: an event that tells of an error, or is none of ours."""
    for line in lines:
        if not line.startswith("data:") or (data := line.removeprefix("data:").strip()) == "[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            raise UserError(f"the server sent {data[:60]!r}, which is no JSON") from None
        if error := chunk.get("error"):
            raise UserError(f"the server could not go on: {error.get('message', error)}")
        yield chunk
