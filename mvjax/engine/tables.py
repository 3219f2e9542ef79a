"""Small tables over the vocabulary, on the device: all that the interpreter knows of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from mvjax.errors import UserError
from mvjax.language import tags

END_OF_TEXT = len(tags.TAGS)
"""Kind of an end-of-text token; the kinds below are the tags' ordinals, tags.TEXT is text."""
KINDS = END_OF_TEXT + 1

# Where a segment stands.
BODY, BLOCK, GOAL, OUTLINE, RUNNING_BLOCK, CONCLUSION, CONCLUDED = range(7)
STANDS = 7
# What closing the segment itself needs beyond its blocks.
CLOSE_NOTHING, CLOSE_PATH, CLOSE_THINK = range(3)

_CLOSING_OF_STAND = {
    OUTLINE: (tags.OUTLINE_CLOSE, tags.GOAL_CLOSE, tags.PARALLEL_CLOSE),
    GOAL: (tags.GOAL_CLOSE, tags.PARALLEL_CLOSE),
    BLOCK: (tags.PARALLEL_CLOSE,),
    CONCLUSION: (tags.CONCLUSION_CLOSE, tags.PARALLEL_CLOSE),
    CONCLUDED: (tags.PARALLEL_CLOSE,),
}
_CLOSING_OF_SEGMENT = {CLOSE_PATH: (tags.PATH_CLOSE,), CLOSE_THINK: (tags.THINK_CLOSE,)}
CLOSING = 8
"""Tokens of the longest closing."""


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
    closing: Int[Array, "7 3 8"]
    """What a wind-up writes, by where the segment stands and by what closes the segment itself."""
    closing_length: Int[Array, "7 3"]


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
    closing = np.full((STANDS, 3, CLOSING), -1, np.int32)
    closing_length = np.zeros((STANDS, 3), np.int32)
    for stand in range(STANDS):
        for segment in range(3):
            kinds = _CLOSING_OF_STAND.get(stand, ()) + _CLOSING_OF_SEGMENT.get(segment, ())
            ids = [token for kind in kinds for token in (int(tag_id[kind]), separator)]
            closing[stand, segment, : len(ids)] = ids
            closing_length[stand, segment] = len(ids)

    eos_ids = list(eos_ids)
    return Tables(
        kind_V=kind_V,
        colon_V=np.array(vocabulary.colon, bool),
        newline_V=np.array(vocabulary.newline, bool),
        tag_id=tag_id,
        # A tag that the vocabulary lacks points behind it: barring it then touches no token.
        special_id_Z=np.array([*np.where(tag_id < 0, vocab_size, tag_id), *eos_ids], np.int32),
        special_kind_Z=np.array([*range(len(tags.TAGS)), *[END_OF_TEXT] * len(eos_ids)], np.int32),
        separator=np.int32(separator),
        colon=np.int32(vocabulary.colon_id),
        dot=np.int32(vocabulary.dot_id),
        number=number,
        number_length=np.array([len(ids) for ids in numbers], np.int32),
        closing=closing,
        closing_length=closing_length,
    )
