"""Fields of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from mvjax.serving.fields.not_served import Nothing, Off, One, Zero
from mvjax.serving.fields.sampled import Sampled, StreamOptions
from mvjax.serving.fields.values import Content, Fields, Flag, PlainText, Positive, text_of

Name = Annotated[str, Field(max_length=256)]


class SpokenMessage(Fields):
    """What a user or the system says."""

    role: Literal["system", "developer", "user"]
    content: Content
    name: Name | None = None


class AnswerMessage(Fields):
    """An earlier answer, as the API gave it: fields beside its content may stand where the API puts them."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Name | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    branches: list[Any] | None = None
    refusal: None = None
    annotations: Nothing = None
    audio: None = None
    tool_calls: Nothing = None
    function_call: None = None


Message = Annotated[SpokenMessage | AnswerMessage, Field(discriminator="role")]


class ChatFields(Sampled):
    """The body of POST /v1/chat/completions."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    n: Positive | None = None
    stop: str | list[str] | None = None
    """Looked for in the content; the answer ends before it."""
    logprobs: Flag | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    include_branches: Flag | None = None
    """Without a stream: the tree of branches in `message.branches`; so does `stream_options.include_branches`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the chat template."""
    prompt_suffix: str | None = None
    """What the last message of the user ends with, in place of the training suffix; "": nothing."""

    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Flag | None = None
    functions: Nothing = None
    function_call: Literal["none", "auto"] | None = None
    response_format: PlainText | None = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    repetition_penalty: One = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    store: Flag | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Off = None
    skip_special_tokens: Literal[True] | None = None

    @property
    def most_new(self) -> int | None:
        """Limit of new tokens, by either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as chat templates read them."""
        return conversation(self.messages)


def conversation(messages: Sequence[SpokenMessage | AnswerMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates read them."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": text_of(message.content),
            **({"name": message.name} if message.name is not None else {}),
        }
        for message in messages
    ]
