"""Conversations through a tokenizer's chat template: their text, its ids, and the ids that follow an earlier answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mvjax.errors import UserError
from mvjax.language.tags import TAGS
from mvjax.tokenizers import chat

RESERVED = ("messages", "add_generation_prompt", "tools", "documents")
RESERVED += ("bos_token", "eos_token", "pad_token", "unk_token")
"""Names that a template gets from here."""


class Turn(NamedTuple):
    """What stands around an earlier answer."""

    before: str
    """Names all that stands before it: text and control tokens."""
    tokens: list[int]
    """Ids of what follows it: the end of its turn, later messages, the header of the next answer."""


class Rendering:
    """Renders some conversations in one way, so that their texts can be compared.

    Raises:
        UserError: the tokenizer has no template, messages are of a wrong form, or an option has a name that is taken.
    """

    def __init__(
        self,
        tokenizer: Any,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        options: Mapping[str, Any],
        *,
        plain_fallback: bool = False,
        plain_answers: bool = False,
    ):
        """
        Args:
            tokenizer: a `Tokenizer`.
            conversations: all that will be rendered.
            options, plain_fallback: see `Tokenizer.render_chat`.
            plain_answers: earlier answers are plain text, but for those that are `chat.Transcript`.
        """
        for messages in conversations:
            chat.check_messages(messages)
        if taken := [name for name in options if name in RESERVED]:
            raise UserError(f"chat template options: {taken[0]} is not free to be set; leave it out")
        settings = tokenizer.settings
        template = settings.chat_template or (chat.PLAIN_TEMPLATE if plain_fallback else None)
        if template is None:
            raise UserError("the tokenizer has no chat template; add chat_template to its tokenizer_config.json")
        self._tokenizer, self._template = tokenizer, template
        self._controls = {token.text: token for token in tokenizer.controls.values()}
        given = [list(map(list, conversations)), dict(options)]
        texts = [json.dumps(given, ensure_ascii=False, default=str), template]
        self._protection = chat.Protection.choose([*{*self._controls, *TAGS}], texts)
        self._plain = plain_answers
        self._every = _any_of(self._controls)
        self._special = _any_of(t.text for t in self._controls.values() if t.special and t.text not in TAGS)
        names = {"bos_token": settings.bos, "eos_token": (settings.eos or (None,))[0]}
        names |= {"pad_token": settings.pad, "unk_token": settings.unknown}
        self._names = {key: value for key, value in names.items() if value is not None}
        self._names |= self._protection.hide(dict(options))

    def text(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """What the template makes of messages, protected.

        Raises:
            UserError: the template fails, or refuses the messages.
        """
        return chat.render(
            self._template,
            messages,
            self._protection,
            self._hidden,
            add_generation_prompt=add_generation_prompt,
            names=self._names,
        )

    def encode(self, text: str, *, begins: bool = True) -> list[int]:
        """Ids of a text that `text` gave, or of its end (not `begins`)."""
        tokens, protection, parts = self._controls, self._protection, self._parts(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(tokens[part].id)
                continue
            before = parts[i - 1] if i else None
            after = parts[i + 1] if i + 1 < len(parts) else None
            if before and tokens[before].rstrip:
                part = part.lstrip()
            if after and tokens[after].lstrip:
                part = part.rstrip()
            for j, piece in enumerate(part.split(protection.answer)):
                first = begins and not ids if j == 0 else True
                ids += self._tokenizer.encode_after(before if j == 0 else None, protection.restore(piece), start=first)
        return ids

    def name_of(self, text: str) -> str:
        """A name that no two texts share which differ in a character or in what is a control token."""
        plain = [self._protection.restore(part.replace(self._protection.answer, "")) for part in self._parts(text)]
        return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()

    def turn(self, before: Sequence[Mapping[str, Any]], answer: str, after: Sequence[Mapping[str, Any]]) -> Turn | None:
        """What stands around an answer in a conversation; None where the template writes the answer, or what is before
        it, otherwise than it was when the answer was made (some leave out reasoning, or trim)."""
        begin, answer = self.text(before), chat.Transcript(answer)
        answered = begin + self._protection.mark(answer, self._special)
        whole = self.text([*before, {"role": "assistant", "content": answer}, *after])
        if not whole.startswith(answered):
            return None
        return Turn(self.name_of(begin), self.encode(whole[len(answered) :], begins=False))

    def _hidden(self, answer: str) -> re.Pattern[str] | None:
        """What stays text in an earlier answer."""
        return self._every if self._plain and not isinstance(answer, chat.Transcript) else self._special

    def _parts(self, text: str) -> list[str]:
        """Text and control tokens by turns."""
        return self._every.split(text) if self._every is not None else [text]


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of the texts, the longest where several begin at one place."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None
