"""What the API answers, as pydantic models: for its description (/openapi.json) alone, answers are made as dicts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An object that may get further fields."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), use_attribute_docstrings=True)


class ErrorDetail(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """An error."""

    error: ErrorDetail


class CachedTokens(Answer):
    """Of a prompt."""

    cached_tokens: int
    """Found in pages that were there already."""


class Usage(Answer):
    """What a call has cost."""

    prompt_tokens: int
    completion_tokens: int
    """Of all branches."""
    total_tokens: int
    critical_path_tokens: int
    """Length of the longest chain of tokens that had to come one after the other."""
    degree: float
    """# parallel: new tokens over critical path."""
    prompt_tokens_details: CachedTokens


class Branch(Answer):
    """A branch of an answer."""

    address: str
    """"" is the root, "1.2" path 2 of its block 1, "1.2/1.3" path 3 of that path's block 1."""
    text: str
    tokens: int
    cut: str | None
    """The limit that ended it."""


class ChatMessage(Answer):
    """The answer."""

    role: Literal["assistant"]
    content: str
    """The text outside Think and blocks."""
    refusal: None = None
    reasoning: str | None = None
    """The rest, in the order of the transcript; under the name `reasoning_content` where the server says so."""
    branches: list[Branch] | None = None
    """The tree, where it was asked for."""


class ChatChoice(Answer):
    """One of the answers."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Answer):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(Answer):
    """One of the answers."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None
    reasoning: str | None = None


class Completion(Answer):
    """The answers to prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Response(Answer):
    """A response: reasoning items, one for each branch, and the message."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: list[dict[str, Any]]


class Model(Answer):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(Answer):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Answer):
    """A text's tokens."""

    tokens: list[int]
    count: int
    max_model_len: int


class Text(Answer):
    """The text of tokens."""

    prompt: str


class Health(Answer):
    """That the engine makes progress."""

    status: Literal["ok"]


class Version(Answer):
    """What is running."""

    version: str
