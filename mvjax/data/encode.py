"""From a record to tokens, layout and loss mask: one training example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from mvjax.data.records import Record
from mvjax.errors import UserError
from mvjax.language import Layout, lay_out
from mvjax.language.layout import SEQUENTIAL
from mvjax.tokenizers.tables import VocabularyTables
from mvjax.tokenizers.tokenizer import Tokenizer

Form = Literal["multiverse", "autoregressive"]

FORMS: tuple[Form, ...] = ("multiverse", "autoregressive")
"""The two forms of a record, in the order of axis F of a store's index."""

SUFFIXES: Mapping[str, str] = {
    "multiverse": " Think step by step and in parallel before answering.",
    "autoregressive": " Think step by step before answering.",
}
"""What the last user message ends with, by form (arXiv 2506.09991, appendix)."""


@dataclass(frozen=True, eq=False)
class Example:
    """One encoded document: the chat, the response, the end of text."""

    tokens: Int32[np.ndarray, "T"]
    """Token ids."""
    layout: Layout
    """Segments, positions, hidden intervals."""
    loss: Bool[np.ndarray, "T"]
    """Whether a token is a training target; the end of text is one."""
    id: str
    """The record's id."""
    mode: Form
    """Which of the record's two forms this is."""


def with_suffix(messages: Sequence[Mapping[str, str]], form: Form) -> list[dict[str, str]]:
    """The messages with the form's suffix on the last one of the user: what training and generation prompt with."""
    if not any(message["role"] == "user" for message in messages):
        raise UserError("a conversation needs a message of the user")
    return with_ending(messages, SUFFIXES[form])


def with_ending(messages: Sequence[Mapping[str, str]], ending: str) -> list[dict[str, str]]:
    """The messages with this text at the end of the last one of the user, if there is one."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=None)
    return [
        {**message, "content": message["content"].rstrip() + ending} if place == last and ending else dict(message)
        for place, message in enumerate(messages)
    ]


def encode_tokens(tokenizer: Tokenizer, record: Record, form: Form = "multiverse") -> tuple[list[int], int]:
    """Token ids of a record in one form, and how many of them are the prompt.

    Raises:
      UserError: the tokenizer has no chat template, no control tags or no end of text.
    """
    if form not in SUFFIXES:
        raise ValueError(f"form {form!r} is neither multiverse nor autoregressive")
    if not tokenizer.eos_ids:
        raise UserError("the tokenizer has no end-of-text token; name eos_token in its tokenizer_config.json")
    form = "autoregressive" if record.sequential else form
    prompt = tokenizer.render_chat(prompt_messages(record, form), plain_answers=record.sequential)
    if form == "multiverse":
        response = tokenizer.encode_response(record.response)
    elif record.sequential:
        response = tokenizer.encode(record.autoregressive)
    else:
        response = tokenizer.encode_sequential(record.autoregressive)
    return [*prompt, *response, *([] if record.cut else tokenizer.eos_ids[:1])], len(prompt)


def prompt_messages(record: Record, form: Form) -> Sequence[Mapping[str, str]]:
    """The conversation of a record up to the answer, with the form's suffix where the record has one."""
    return with_suffix(record.messages, form) if record.suffix else record.messages


def earlier_answers(tokenizer: Tokenizer, record: Record, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Where the earlier answers of a sequential record stand in its tokens, each with the end of turn that follows it.

    Only answers that stand there exactly as a model produces them: after the prompt that it would have had, to the end
    of its turn. A template that writes earlier answers otherwise (Qwen3's drops their reasoning) leaves nothing to
    train on there.
    """
    messages, found = prompt_messages(record, "autoregressive"), []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            prompt = tokenizer.render_chat(messages[:place], plain_answers=True)
        except UserError:  # some templates refuse a conversation that the assistant begins
            continue
        whole = [*prompt, *tokenizer.encode(message["content"])]
        end = len(whole)
        if list(tokens[:end]) == whole and end < len(tokens) and tokens[end] in tokenizer.eos_ids:
            found.append((len(prompt), end + 1))
    return found


def lay_out_example(
    tables: VocabularyTables,
    tokens_T: Int32[np.ndarray, "T"],
    prompt_length: int,
    record: Record,
    form: Form,
    answers: Sequence[tuple[int, int]] = (),
) -> Example:
    """The example of a record's tokens; `answers` are parts of the prompt that are trained on, as sequential text.

    Raises:
      TranscriptError: the response breaks the grammar, or is cut though the record does not say so; names the record
        and the token.
    """
    layout = lay_out(
        tables.codes[tokens_T],
        tables.colon[tokens_T],
        prompt_length,
        separator_T=tokens_T == tables.separator_id,
        scan_prompt=any(message["role"] == "assistant" for message in record.messages),
        complete=not record.cut,
        record=record.id,
    )
    for start, end in answers:
        layout.loss[start:end], layout.part[start:end] = True, SEQUENTIAL
    return Example(tokens_T, layout, layout.loss, record.id, form)


def encode_record(
    tokenizer: Tokenizer, record: Record, form: Form = "multiverse", *, tables: VocabularyTables | None = None
) -> Example:
    """Encode one record: the rendered chat (no loss), the response and the end-of-text token (both targets).

    A sequential record has the same tokens in both forms, and its earlier answers are targets too (`earlier_answers`);
    one that is cut has no end of text.

    Args:
      tokenizer: with control tags.
      record: the last user message gets the form's suffix, unless the record says otherwise.
      form: `multiverse` or `autoregressive`.
      tables: `tokenizer.tables()`, where many records are encoded.
    Raises:
      TranscriptError: the response breaks the grammar, or is cut though the record does not say so.
      UserError: see encode_tokens.
    """
    tokens, prompt_length = encode_tokens(tokenizer, record, form)
    answers = earlier_answers(tokenizer, record, tokens) if record.sequential else []
    tables = tables or tokenizer.tables()
    return lay_out_example(tables, np.array(tokens, np.int32), prompt_length, record, form, answers)
