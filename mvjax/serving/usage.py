"""What an answer has cost, as clients read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mvjax.engine import Result
from mvjax.language import tags
from mvjax.serving.generation import Choice

OPENING, CLOSING = (tags.THINK_OPEN, tags.PARALLEL_OPEN), (tags.THINK_CLOSE, tags.PARALLEL_CLOSE)


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """Tokens of prompts, each counted once however many answers it has; tokens of all branches of all answers; the
    longest critical path; and # parallel (language, section 8)."""
    results = [choice.result for choice in choices if choice.result is not None]
    prompts = {id(choice.question.prompt): choice for choice in reversed(choices) if choice.result is not None}
    sent = sum(len(choice.question.prompt.tokens) for choice in prompts.values())
    made, paths = sum(result.new_tokens for result in results), [result.critical_path for result in results]
    found = sum(choice.result.found for choice in prompts.values() if choice.result is not None)
    return {
        "prompt_tokens": sent,
        "completion_tokens": made,
        "total_tokens": sent + made,
        "critical_path_tokens": max(paths, default=0),
        "degree": round(made / max(sum(paths), 1), 4) if made else 1.0,
        "prompt_tokens_details": {"cached_tokens": found},
    }


def usage_so_far(choices: Sequence[Choice]) -> dict[str, int]:
    """Counts while answers grow."""
    prompts = {id(choice.question.prompt): len(choice.question.prompt.tokens) for choice in choices}
    sent, made = sum(prompts.values()), sum(choice.made for choice in choices)
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}


def response_usage(choice: Choice, codes_V: Int[np.ndarray, "V"]) -> dict[str, Any]:
    """The same under the names of the Responses API."""
    its = usage([choice])
    reasoning = 0 if choice.result is None else reasoning_tokens(choice.result, codes_V)
    return {
        "input_tokens": its["prompt_tokens"],
        "input_tokens_details": its["prompt_tokens_details"],
        "output_tokens": its["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": its["total_tokens"],
        "critical_path_tokens": its["critical_path_tokens"],
        "degree": its["degree"],
    }


def reasoning_tokens(result: Result, codes_V: Int[np.ndarray, "V"]) -> int:
    """Tokens in Think and blocks, tags included. codes: tag of each token, negative for text."""
    code_T = codes_V[result.tokens]
    opens_T, closes_T = np.isin(code_T, OPENING), np.isin(code_T, CLOSING)
    depth_T = np.cumsum(opens_T.astype(int) - closes_T)
    return int(np.sum((depth_T > 0) | closes_T))
