"""Conversations: messages become prompts in which earlier answers are laid out as the transcripts that they are.

A client sends the whole conversation with every turn, and what it sends of earlier answers is text. Encoding that again
gives other tokens than the model made, and says nothing of Think and blocks. So answers are remembered as token ids
with their layout, and the next turn goes on from there: the engine finds the keys and values of all of it in its pages.
The earlier turns then stand as they stood when they were answered, the suffix of their prompts included.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mvjax.data.encode import SUFFIXES, with_ending
from mvjax.engine import Mode, Prompt, Result
from mvjax.engine.engine import REUSED
from mvjax.engine.turns import answered, extended
from mvjax.language import TranscriptError
from mvjax.serving.answer_text import AnswerText
from mvjax.tokenizers.chat import Transcript, check_messages
from mvjax.tokenizers.rendering import Rendering

MOST_TOKENS = 4_000_000
"""Tokens of prompts and answers that are remembered at most by default: some 20 bytes each, more where blocks nest."""


@dataclasses.dataclass(frozen=True)
class ChatPrompt(Prompt):
    """A prompt that was made of messages."""

    messages: tuple[Mapping[str, Any], ...] = ()
    """As the template got them: suffixes added, remembered answers as transcripts."""
    name: str = ""
    """Of the rendered text, see `Rendering.name_of`."""


class Answered(NamedTuple):
    """What is remembered of an answer."""

    messages: tuple[Mapping[str, Any], ...]
    """Those of its prompt, and the answer's transcript."""
    name: str
    """That of its prompt."""
    prompt: Prompt
    """Prompt and answer, laid out."""


class Conversations:
    """Makes prompts of messages and remembers answers. May be used from several threads."""

    def __init__(self, tokenizer: Any, vocabulary: Any, *, most: int = 1024, most_tokens: int = MOST_TOKENS):
        """
        Args:
            vocabulary: the tokenizer's `VocabularyTables`.
            most: answers that are remembered at most; those that were used longest ago are forgotten first.
            most_tokens: the same for the tokens of prompts and answers together.
        """
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._most, self._most_tokens = most, most_tokens
        self._lock = threading.Lock()
        self._answers: collections.OrderedDict[bytes, Answered] = collections.OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        """Answers that are remembered."""
        return len(self._answers)

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

        The last earlier answer that is remembered, for the same messages before it and with the same text, is laid out
        with all that stood before it; every other one is the client's text, in which tags mean nothing.

        Args:
            messages: {"role": word, "content": text}, oldest first.
            key: the API key; what was remembered under another one is not used.
            mode: of the request; it chooses the suffix.
            suffix: what the user's last message ends with in place of the mode's own; "": nothing.
            template_options: further names for the chat template.

        Raises:
            UserError: messages of a wrong form, or the template fails or refuses them.
        """
        check_messages(messages)
        if suffix is None:
            suffix = SUFFIXES["autoregressive" if mode == "autoregressive" else "multiverse"]
        for place, name in reversed(list(enumerate(names(messages, key)))):
            with self._lock:
                known = self._answers.get(name)
                if known is not None:
                    self._answers.move_to_end(name)
            if known is not None and (found := self._continued(known, messages[place + 1 :], suffix, template_options)):
                return found
        asked = tuple(with_ending(messages, suffix))
        rendering = Rendering(self._tokenizer, [asked], template_options, plain_answers=True)
        text = rendering.text(asked)
        return ChatPrompt(rendering.encode(text), messages=asked, name=rendering.name_of(text))

    def remember(
        self, messages: Sequence[Mapping[str, Any]], content: str, prompt: Prompt, result: Result, *, key: str
    ) -> None:
        """Keep an answer for the turns after it. One whose text the client has not got whole, because a stop string was
        met, is not kept: the model would see what the client does not.

        Args:
            messages: what `prompt` made this prompt of.
            content: the answer's text as the client got it, without reasoning or with it (`branches` of `AnswerText`).
        """
        if not isinstance(prompt, ChatPrompt) or result.reason not in REUSED or not self._is_whole(content, result):
            return
        try:
            laid_out = answered(prompt, result, self._vocabulary)
        except TranscriptError:
            return
        laid_out = dataclasses.replace(laid_out, tokens=array.array("i", laid_out.tokens))  # A tenth of a list.
        transcript = Transcript(self._tokenizer.decode(result.tokens.tolist()))
        said = (*prompt.messages, {"role": "assistant", "content": transcript})
        *_, name = names([*messages, {"role": "assistant", "content": content}], key)
        with self._lock:
            self._forget(name)
            self._answers[name] = Answered(said, prompt.name, laid_out)
            self._tokens += len(laid_out.tokens)
            while len(self._answers) > self._most or (self._tokens > self._most_tokens and len(self._answers) > 1):
                self._forget(next(iter(self._answers)))

    def _forget(self, name: bytes) -> None:
        known = self._answers.pop(name, None)
        if known is not None:
            self._tokens -= len(known.prompt.tokens)

    def _continued(
        self, known: Answered, messages: Sequence[Mapping[str, Any]], suffix: str, options: Mapping[str, Any]
    ) -> Prompt | None:
        """The prompt that goes on from an answer; None where the template writes what was before otherwise now."""
        *before, answer = known.messages
        new = with_ending(messages, suffix)
        asked = (*known.messages, *new)
        rendering = Rendering(self._tokenizer, [asked], options, plain_answers=True)
        turn = rendering.turn(before, answer["content"], new)
        if turn is None or turn.before != known.name or not turn.tokens:
            return None
        prompt, name = extended(known.prompt, turn.tokens), rendering.name_of(rendering.text(asked))
        arrays = prompt.positions, prompt.hide_start, prompt.hide_end
        return ChatPrompt(prompt.tokens, *arrays, messages=asked, name=name)

    def _is_whole(self, content: str, result: Result) -> bool:
        """Whether a text is all that an answer says."""
        for branches in ("apart", "transcript"):
            text = AnswerText(self._tokenizer, 0, branches=branches, vocabulary=self._vocabulary)
            if content == "".join(piece.text for piece in text.finish(result)[0] if piece.kind == "content"):
                return True
        return False


def names(messages: Sequence[Mapping[str, Any]], key: str) -> list[bytes]:
    """For each message a name of it and of all before it, under an API key. Of assistants only the text counts: clients
    send back what they please of the rest."""
    found, name = [], key.encode()
    for message in messages:
        said = {one: value for one, value in message.items() if value is not None}
        if message.get("role") == "assistant":
            said = {one: said.get(one) for one in ("role", "content")}
        text = json.dumps(said, sort_keys=True, ensure_ascii=True, default=str)
        name = hashlib.blake2b(text.encode(), key=hashlib.blake2b(name).digest(), digest_size=16).digest()
        found.append(name)
    return found
