"""Log-probabilities of the tokens of a prompt, which generation does not compute: for likelihood tasks.

A program of its own reads a prompt in chunks, over keys and values of its own, and keeps of the logits what is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from mvjax.engine.k_largest import k_largest
from mvjax.engine.logprobs import log_sum_exp
from mvjax.errors import UserError

CHUNK = 64
"""Tokens of a call."""


class ReadingModel(Protocol):
    """What the scorer asks of a model; see `mvjax.models.DecoderStepModel`, whose streams lie in pages."""

    page_size: int | None

    def init_pages(self, pages: int) -> Any: ...

    def with_table(self, kv: Any, table_RM: Any) -> Any: ...

    def read_chunks(self, params: Any, kv: Any, *chunks: Any) -> tuple[Array, Any]: ...

    def next_logits(self, params: Any, x_DW: Array) -> Float[Array, "W V"]: ...


class Scores(NamedTuple):
    """Natural logarithms of probabilities at temperature 1, without a bar: of each token but the first, given those
    before it."""

    token: Float32[np.ndarray, "T"]
    top_id: Int32[np.ndarray, "T K"]
    """The most probable tokens there, the most probable first."""
    top: Float32[np.ndarray, "T K"]


class PromptScorer:
    """Scores prompts, one at a time.

    Args:
        model: a `ReadingModel`; its arithmetic is that of prefill.
        longest: tokens of the longest prompt. So many slots of keys and values are kept.
        alternatives: K.

    Raises:
        UserError: the model cannot be read so.
    """

    def __init__(self, model: Any, params: Any, longest: int, alternatives: int):
        page = getattr(model, "page_size", None)
        if page is None or not hasattr(model, "read_chunks") or getattr(model, "local", model) is not model:
            raise UserError("log-probabilities of prompts: computed for a model on one device, in pages, only")
        self.longest, self.alternatives = longest, alternatives
        pages = -(-(longest + CHUNK) // page)
        self._kv = model.with_table(model.init_pages(1 + pages), jnp.arange(1, 1 + pages, dtype=jnp.int32)[None])
        run = functools.partial(score_chunk, model, slots=pages * page, alternatives=alternatives)
        blank_T = np.zeros(CHUNK, np.int32)
        lowered = jax.jit(run, donate_argnums=1).lower(params, self._kv, blank_T, blank_T, *np.zeros(2, np.int32))
        self._params, self._program = params, lowered.compile()

    def score(self, tokens: Sequence[int]) -> Scores:
        """The scores of a prompt.

        Raises:
            UserError: it is too long.
        """
        if len(tokens) > self.longest:
            raise UserError(
                f"the prompt has {len(tokens)} tokens; log-probabilities are computed for {self.longest} at most "
                "(mvjax serve --prompt-logprobs)"
            )
        tokens_T, parts = np.asarray(tokens, np.int32), []
        for offset in range(0, len(tokens_T) - 1, CHUNK):
            fed = tokens_T[offset : offset + CHUNK]
            followed = tokens_T[offset + 1 : offset + 1 + CHUNK]
            chunk_2T = np.zeros((2, CHUNK), np.int32)
            chunk_2T[0, : len(fed)], chunk_2T[1, : len(followed)] = fed, followed
            numbers = np.int32(offset), np.int32(len(fed))
            self._kv, *found = self._program(self._params, self._kv, *chunk_2T, *numbers)
            parts.append([np.asarray(values)[: len(followed)] for values in found])
        if not parts:
            none_TK = np.zeros((0, self.alternatives))
            return Scores(np.zeros(0, np.float32), none_TK.astype(np.int32), none_TK.astype(np.float32))
        return Scores(*(np.concatenate(values) for values in zip(*parts)))


def score_chunk(
    model: ReadingModel,
    params: Any,
    kv: Any,
    tokens_T: Int[Array, "T"],
    next_T: Int[Array, "T"],
    offset: Int[Array, ""],
    length: Int[Array, ""],
    *,
    slots: int,
    alternatives: int,
) -> tuple[Any, Float[Array, "T"], Int[Array, "T K"], Float[Array, "T K"]]:
    """Read a chunk of a prompt; keys and values, and the scores of the tokens that follow each.

    Args:
        slots: of the stream.
        alternatives: K.
    """
    hidden_BES = jnp.zeros((1, 0, slots), jnp.int32)
    position_T = offset + jnp.arange(len(tokens_T), dtype=jnp.int32)
    request_B = jnp.zeros(1, jnp.int32)
    chunks = tokens_T[None], position_T[None], hidden_BES, hidden_BES, request_B, offset[None], length[None]
    x_DT, kv = model.read_chunks(params, kv, *chunks)
    logits_TV = model.next_logits(params, x_DT)
    logprob_TV = logits_TV - log_sum_exp(logits_TV)
    token_T = jnp.take_along_axis(logprob_TV, next_T[:, None], axis=1)[:, 0]
    if not alternatives:
        return kv, token_T, jnp.zeros((len(tokens_T), 0), jnp.int32), jnp.zeros((len(tokens_T), 0), jnp.float32)
    top_TK, id_TK = k_largest(logprob_TV, alternatives)
    return kv, token_T, id_TK, top_TK
