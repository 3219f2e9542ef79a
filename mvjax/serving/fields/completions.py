"""Fields of /v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mvjax.serving.fields.not_served import Off, One, Zero
from mvjax.serving.fields.sampled import Sampled, StreamOptions
from mvjax.serving.fields.values import Flag, PlainText, Positive, Token, Whole

DEFAULT_TOKENS = 16
"""New tokens of a completion that names no limit, as OpenAI has it."""

Ids = Annotated[list[Token], Field(min_length=1)]


class CompletionFields(Sampled):
    """The body of POST /v1/completions."""

    model: str | None = None
    prompt: str | Ids | Annotated[list[Ids], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    """A text, token ids, or several of them."""
    max_tokens: Whole | None = None
    """0 with `echo` only: nothing is generated."""
    n: Positive | None = None
    best_of: Annotated[int, Field(strict=True, ge=1, le=1)] | None = None
    stop: str | list[str] | None = None
    echo: Flag | None = None
    """The prompt comes before the text, with `logprobs` those of its tokens too."""
    logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None

    suffix: Literal[""] | None = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    repetition_penalty: One = None
    response_format: PlainText | None = None
    use_beam_search: Off = None
    skip_special_tokens: Literal[True] | None = None
    add_special_tokens: Flag | None = None
    """Whether a text begins with the token that begins texts, where the vocabulary adds one."""

    def prompts(self) -> list[str | list[int]]:
        """Each prompt."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if several else [self.prompt]  # pyrefly: ignore
