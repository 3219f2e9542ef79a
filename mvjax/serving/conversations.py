"""Conversations: messages become prompts in which earlier answers are laid out as the transcripts that they are.

A client sends the whole conversation with every turn, and what it sends of earlier answers is text. Encoding that again
gives other tokens than the model made, and says nothing of Think and blocks. So prompts and answers are remembered, and
the next turn goes on from them: as token ids with their layout, which the engine finds in its pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvjax.data.encode import SUFFIXES
from mvjax.engine import Mode, Prompt, Result

MOST_TOKENS = 4_000_000
"""Tokens that are remembered at most."""
COMPLETE = ("stop", "tokens", "positions")
"""Reasons of answers that are remembered."""


class Conversations:
    """Makes prompts of messages and remembers answers. May be used from several threads."""

    def __init__(self, tokenizer: Any, vocabulary: Any, *, most: int = 1024, most_tokens: int = MOST_TOKENS):
        """
        Args:
            vocabulary: the tokenizer's `VocabularyTables`.
            most: answers that are remembered at most; those that were used longest ago are forgotten first.
            most_tokens: the same for tokens of prompts and answers together.
        """
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._most, self._most_tokens = most, most_tokens

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        key: str,
        mode: Mode,
        suffix: str | None = None,
        template_options: Mapping[str, Any] = {},
    ) -> Prompt:
        """The prompt for the answer to these messages.

        Args:
            messages: {"role": word, "content": text}, oldest first.
            key: the API key; what was remembered under another one is not used.
            mode: of the request; it chooses the suffix.
            suffix: what the user's last message ends with in place of the mode's own; "": nothing.
            template_options: passed to the chat template.

        Raises:
            UserError: messages of a wrong form, or the template fails or refuses them.
        """
        return Prompt(self._tokenizer.render_chat(self._suffixed(messages, mode, suffix), plain_answers=True))

    def remember(
        self, messages: Sequence[Mapping[str, Any]], content: str, prompt: Prompt, result: Result, *, key: str
    ) -> None:
        """Keep an answer for the turns after it.

        Args:
            messages: what `prompt` made this prompt of.
            content: the answer's text as the client got it.
        """

    def _suffixed(self, messages: Sequence[Mapping[str, Any]], mode: Mode, suffix: str | None) -> list[dict[str, Any]]:
        if suffix is None:
            suffix = SUFFIXES["autoregressive" if mode == "autoregressive" else "multiverse"]
        last = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=None)
        if last is None or not suffix:
            return [dict(message) for message in messages]
        ended = {**messages[last], "content": messages[last]["content"].rstrip() + suffix}
        return [dict(message) for message in [*messages[:last], ended, *messages[last + 1 :]]]
