"""Log-probabilities of sampled tokens and of the model's top alternatives, made on the device and read on the host.

Two distributions, both at temperature 1, before top-k, top-p and min-p: the one over what the grammar leaves open,
which tokens are drawn from (barred tokens have -inf), and the one before the bar. They differ by the bar alone: a
request's biases are in both. Without biases the second is the softmax of the model's own logits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

from mvjax.engine.k_largest import k_largest
from mvjax.engine.sampling import ordered_sum


@dataclasses.dataclass(frozen=True)
class LogProbs:
    """Natural logarithms of probabilities, token by token. Tokens that the interpreter wrote have none: NaN, ids -1.

    K: the most probable tokens before the bar, the most probable first; the lower id first among equals.
    """

    token: Float32[np.ndarray, "*T"]
    """Of the token among what the grammar left open."""
    token_unbarred: Float32[np.ndarray, "*T"]
    """Of the token before the bar."""
    top_id: Int32[np.ndarray, "*T K"]
    top: Float32[np.ndarray, "*T K"]
    """Of the alternatives among what the grammar left open; -inf: barred."""
    top_unbarred: Float32[np.ndarray, "*T K"]
    """Of the alternatives before the bar."""

    def take(self, index: Any) -> LogProbs:
        """Those of some tokens, in that order, or of one; `index` as of an array."""
        return LogProbs(*[np.asarray(getattr(self, field.name)[index]) for field in dataclasses.fields(self)])


def columns(alternatives: int | None) -> int:
    """Fields of a slot record for them; None: none are kept."""
    return 0 if alternatives is None else 2 + 3 * alternatives


def packed(
    unbarred_WV: Float[Array, "W V"], open_WV: Float[Array, "W V"], token_W: Int[Array, "W"], alternatives: int
) -> Int[Array, "W Columns"]:
    """What is kept for the token that each row draws: in the slot of the token before it, from whose logits it comes.

    Args:
        unbarred_WV: logits with biases.
        open_WV: the same with -inf at barred tokens.
    """

    def of(logits_WV, total_W1, id_WK):
        return jnp.take_along_axis(logits_WV, id_WK, axis=1) - total_W1

    unbarred_W1, open_W1 = log_sum_exp(unbarred_WV), log_sum_exp(open_WV)
    token_W1 = token_W[:, None]
    chosen = of(open_WV, open_W1, token_W1), of(unbarred_WV, unbarred_W1, token_W1)
    if alternatives == 0:
        return jnp.concatenate([lax.bitcast_convert_type(field_WK, jnp.int32) for field_WK in chosen], axis=1)
    _, id_WK = k_largest(unbarred_WV, alternatives)
    fields = *chosen, of(open_WV, open_W1, id_WK), of(unbarred_WV, unbarred_W1, id_WK)
    return jnp.concatenate([id_WK, *[lax.bitcast_convert_type(field_WK, jnp.int32) for field_WK in fields]], axis=1)


def log_sum_exp(logits_WV: Float[Array, "W V"]) -> Float[Array, "W 1"]:
    """Logarithm of the sum of exponentials of each row, the same whatever rows stand beside it."""
    largest_W1 = jnp.max(logits_WV, axis=1, keepdims=True)
    return largest_W1 + jnp.log(ordered_sum(jnp.exp(logits_WV - largest_W1)))[:, None]


def unpacked(columns_TC: Int32[np.ndarray, "T Columns"], sampled_T: Any) -> LogProbs:
    """Inverse of `packed` on the host; nothing for tokens that were not sampled."""
    count = (columns_TC.shape[1] - 2) // 3
    id_TK, rest_TC = np.split(columns_TC, [count], axis=1)
    number_TC = np.where(sampled_T[:, None], np.ascontiguousarray(rest_TC).view(np.float32), np.float32("nan"))
    token_T, unbarred_T = number_TC[:, 0], number_TC[:, 1]
    top_TK, top_unbarred_TK = np.split(number_TC[:, 2:], 2, axis=1)
    return LogProbs(token_T, unbarred_T, np.where(sampled_T[:, None], id_TK, -1), top_TK, top_unbarred_TK)
