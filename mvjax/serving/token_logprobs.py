"""Log-probabilities of tokens as the two forms of OpenAI's API have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvjax.serving.answer_text import TokenLogProb

LEAST = -9999.0
"""In place of minus infinity, which JSON has no number for: a token that the grammar bars here."""


def finite(logprob: float) -> float:
    """A logarithm that JSON has a number for."""
    return max(round(logprob, 6), LEAST)


def chat_logprobs(tokenizer: Any, tokens: Sequence[TokenLogProb], alternatives: int) -> list[dict[str, Any]]:
    """As `choices[0].logprobs.content` has them."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}

    return [
        {**shown(its.token, its.logprob), "top_logprobs": [shown(*one) for one in ranked(its, alternatives)]}
        for its in tokens
    ]


def completion_logprobs(
    tokenizer: Any, tokens: Sequence[TokenLogProb | int], alternatives: int, offset: int = 0
) -> dict[str, list]:
    """As `choices[0].logprobs` of a completion has them.

    Args:
        tokens: a token id alone is the first of a prompt, of which there is no probability.
        offset: of the first token in the text.
    """
    names, logprobs, tops, offsets = [], [], [], []
    for its in tokens:
        name = name_of(tokenizer, its if isinstance(its, int) else its.token)
        names.append(name)
        offsets.append(offset)
        offset += len(name)
        if isinstance(its, int):
            logprobs.append(None)
            tops.append(None)
            continue
        logprobs.append(finite(its.logprob))
        top: dict[str, float] = {}
        for token, logprob in ranked(its, alternatives):
            top.setdefault(name_of(tokenizer, token), finite(logprob))  # Two tokens may have the same text.
        tops.append({name: finite(its.logprob), **top} if alternatives else top)
    return {"tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


def name_of(tokenizer: Any, token: int) -> str:
    """A token as text; one that is no text by itself is spelt as bytes."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def ranked(its: TokenLogProb, alternatives: int) -> list[tuple[int, float]]:
    """The most probable tokens, the most probable first."""
    return sorted(its.top, key=lambda one: -one[1])[:alternatives]
