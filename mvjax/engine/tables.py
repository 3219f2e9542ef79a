"""Small tables over the vocabulary, on the device: all that the interpreter knows of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from mvjax.errors import UserError
from mvjax.language import grammar, tags
from mvjax.language.grammar import GrammarState

END_OF_TEXT = len(tags.TAGS)
"""Kind of an end-of-text token; the kinds below are the tags' ordinals, tags.TEXT is text."""


class Tables(NamedTuple):
    """Lookups by token id and by place in the grammar. Z: the tags, then every end-of-text token."""

    kind_V: Int[Array, "V"]
    """Kind of each token (int8): a tag's ordinal, END_OF_TEXT, or tags.TEXT."""
    colon_V: Bool[Array, "V"]
    """The token's text holds ":"."""
    newline_V: Bool[Array, "V"]
    """The token's text holds a line break."""
    tag_id: Int[Array, "12"]
    """Token of each tag; -1 where the vocabulary has none."""
    special_id_Z: Int[Array, "Z"]
    special_kind_Z: Int[Array, "Z"]
    separator: Int[Array, ""]
    colon: Int[Array, ""]
    dot: Int[Array, ""]
    number: Int[Array, "N P"]
    """Tokens of "1", "2", ..., padded with -1."""
    number_length: Int[Array, "N"]
    allowed: Int[Array, "states"]
    """Kinds that may be sampled in each state of the grammar, as bits."""
    next_state: Int[Array, "states 14"]
    """State behind each kind (text first, end-of-text last); `grammar.RETURN`: that of the segment's body."""
    closing: Int[Array, "states bodies 8"]
    """What a wind-up writes, by the state and by the body of the segment."""
    closing_length: Int[Array, "states bodies"]


def bits(*kinds: int) -> int:
    """Bit set of kinds."""
    return sum(1 << kind for kind in kinds)


def build_tables(vocabulary: Any, eos_ids: Sequence[int], max_paths: int) -> Tables:
    """Tables (NumPy, to be put on the device) from a tokenizer's `VocabularyTables`.

    Args:
        vocabulary: has codes, colon, newline (arrays over the vocabulary), separator_id, colon_id, dot_id, number_ids.
        eos_ids: tokens that end a text.
        max_paths: numbers that labels may need.

    Raises:
        UserError: an end-of-text id outside the vocabulary or on a tag, a number without tokens.
    """
    kind_V = np.array(vocabulary.codes, np.int8)
    vocab_size = len(kind_V)
    tag_id = np.full(len(tags.TAGS), -1, np.int32)
    found_K = np.flatnonzero(kind_V >= 0)
    tag_id[kind_V[found_K]] = found_K
    for token in eos_ids:
        if not 0 <= token < vocab_size or kind_V[token] >= 0:
            raise UserError(f"end-of-text token {token} is outside the vocabulary of {vocab_size} or a control tag")
        kind_V[token] = END_OF_TEXT
    numbers = [list(ids) for ids in vocabulary.number_ids[:max_paths]]
    if len(numbers) < max_paths or not all(numbers):
        raise UserError(f"the tokenizer's tables write the numbers up to {len(numbers)}; max_paths needs {max_paths}")
    number = np.full((max_paths, max(map(len, numbers))), -1, np.int32)
    for row, ids in zip(number, numbers):
        row[: len(ids)] = ids

    separator = int(vocabulary.separator_id)
    closing = np.full((len(GrammarState), len(grammar.BODIES), grammar.RESERVE), -1, np.int32)
    closing_length = np.zeros(closing.shape[:2], np.int32)
    for state in GrammarState:
        for body in grammar.BODIES:
            ids = [token for tag in grammar.closing_tags(state, body) for token in (int(tag_id[tag]), separator)]
            closing[state, body, : len(ids)] = ids
            closing_length[state, body] = len(ids)
    same_state = np.arange(len(GrammarState))[:, None]
    sampled = grammar.ALLOWED[grammar.Audience.SAMPLER]

    eos_ids = list(eos_ids)
    arrays: dict[str, Any] = {
        "kind_V": kind_V,
        "colon_V": np.array(vocabulary.colon, bool),
        "newline_V": np.array(vocabulary.newline, bool),
        "tag_id": tag_id,
        # A tag that the vocabulary lacks points behind it: barring it then touches no token.
        "special_id_Z": np.array([*np.where(tag_id < 0, vocab_size, tag_id), *eos_ids], np.int32),
        "special_kind_Z": np.array([*range(len(tags.TAGS)), *[END_OF_TEXT] * len(eos_ids)], np.int32),
        "separator": np.int32(separator),
        "colon": np.int32(vocabulary.colon_id),
        "dot": np.int32(vocabulary.dot_id),
        "number": number,
        "number_length": np.array([len(ids) for ids in numbers], np.int32),
        "allowed": np.array(
            [bits(*sampled[state], *[END_OF_TEXT] * (state in grammar.MAY_END)) for state in GrammarState], np.int32
        ),
        "next_state": np.concatenate([same_state, grammar.NEXT, same_state], axis=1).astype(np.int32),
        "closing": closing,
        "closing_length": closing_length,
    }
    return Tables(**arrays)
