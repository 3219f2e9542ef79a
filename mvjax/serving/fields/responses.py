"""Fields of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mvjax.serving.fields.not_served import Nothing, Off
from mvjax.serving.fields.sampled import Sampled
from mvjax.serving.fields.values import Content, Fields, Flag, PlainText, Positive, text_of


class InputMessage(Fields):
    """A message of the conversation."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class ReasoningItem(Fields):
    """Reasoning of an earlier response: what it held is laid out from memory, so it is read over here."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: None = None
    status: str | None = None
    address: str | None = None


class TextOptions(Fields):
    """Of the answer's text."""

    format: PlainText | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(Fields):
    """How much a model reasons is its own: defaults only."""

    effort: Literal["medium"] | None = None
    summary: Literal["auto", "detailed"] | None = None
    """Reasoning is returned as it is, not summed up."""


class ResponseFields(Sampled):
    """The body of POST /v1/responses."""

    model: str | None = None
    input: str | Annotated[list[InputMessage | ReasoningItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    stop: str | list[str] | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=0)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_suffix: str | None = None

    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Flag | None = None
    max_tool_calls: None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: Nothing = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    background: Off = None
    truncation: Literal["disabled"] | None = None
    store: Flag | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    stream_options: dict[str, bool] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    def conversation_messages(self) -> list[dict[str, Any]]:
        """The conversation as chat templates read it."""
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, InputMessage):
                role = "system" if item.role == "developer" else item.role
                messages.append({"role": role, "content": text_of(item.content)})
        return messages
