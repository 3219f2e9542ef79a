"""Conversations: prompts that go on after an answer, laid out as the transcript that it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mvjax.engine.prompt import Prompt
from mvjax.engine.result import Result
from mvjax.language import lay_out
from mvjax.language.tags import TEXT


def next_turn(prompt: Prompt, result: Result, tokens: Sequence[int], vocabulary: Any) -> Prompt:
    """A prompt of an earlier prompt, its answer as it was generated, and new tokens, whose positions follow the
    answer's largest. vocabulary: a `VocabularyTables`.

    Raises TranscriptError where the answer's tokens are no transcript.
    """
    return extended(answered(prompt, result, vocabulary), tokens)


def answered(prompt: Prompt, result: Result, vocabulary: Any) -> Prompt:
    """The same without new tokens."""
    before, answer = len(prompt.tokens), len(result.tokens)
    tokens_T = np.array([*prompt.tokens, *result.tokens], np.int32)
    codes_T, colon_T = vocabulary.codes[tokens_T], vocabulary.colon[tokens_T]
    codes_T[:before] = TEXT
    layout = lay_out(codes_T, colon_T, before, engine_output=True, complete=True, max_depth=len(result.parent))
    positions_T = np.concatenate([prompt.position_array(), result.position]).astype(np.int32)
    earlier = 0 if prompt.hide_start is None else len(prompt.hide_start)
    hide_2ET = np.zeros((2, max(earlier, len(layout.hide_start)), before + answer), np.int32)
    hide_2ET[:, : len(layout.hide_start), before:] = np.stack(
        [layout.hide_start[:, before:], layout.hide_end[:, before:]]
    )
    if prompt.hide_start is not None and prompt.hide_end is not None:
        hide_2ET[:, :earlier, :before] = np.stack([prompt.hide_start, prompt.hide_end])
    hide_2ET[:, hide_2ET[0] >= hide_2ET[1]] = 0
    if not hide_2ET.any():  # Plain text, which needs no layout.
        return Prompt(tokens_T.tolist(), positions_T)
    return Prompt(tokens_T.tolist(), positions_T, *hide_2ET)


def extended(prompt: Prompt, tokens: Sequence[int]) -> Prompt:
    """A prompt and new tokens behind it, which see all of it; their positions follow its largest."""
    positions_T, count = prompt.position_array(), len(tokens)
    first = positions_T.max(initial=-1) + 1
    longer = Prompt([*prompt.tokens, *tokens], np.append(positions_T, np.arange(first, first + count, dtype=np.int32)))
    if prompt.hide_start is None or prompt.hide_end is None:
        return longer
    hide_2ET = np.pad(np.stack([prompt.hide_start, prompt.hide_end]), ((0, 0), (0, 0), (0, count)))
    return Prompt(longer.tokens, longer.positions, *hide_2ET)
