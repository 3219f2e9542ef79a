"""Choosing tokens from logits: greedy, or temperature, top-k, top-p with one uniform number per row.

Every result is a function of the row's logits, key and settings alone, bit for bit, whatever rows stand beside it and
however many: sums are taken over integer weights, where order cannot matter, or in an order that the code fixes.
No sort of the vocabulary and no noise of its size: most rows need only the CANDIDATES largest logits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from mvjax.engine.k_largest import k_largest, ordered
from mvjax.engine.limits import UNLIMITED
from mvjax.engine.sampling_params import SamplingParams

CANDIDATES = 64
"""Largest logits that are looked at first; rows whose kept set may be larger take the slow way over the vocabulary."""
WEIGHT_ONE = 2**23
"""Weight of the most probable token. Weights are probabilities relative to it, rounded to integers."""
BLOCK = 128
"""Tokens whose weights are added up as integers (below 2**31)."""

ELSEWHERE = ("seed", "logit_bias", "stop_token_ids", "ignore_eos", "min_tokens")
"""Parameters that reach the device in another form, see `Request.settings` and `Request.root`."""
FIELDS = tuple(field for field in dataclasses.fields(SamplingParams) if field.name not in ELSEWHERE)
"""The parameters that the device keeps per request under their names."""
jax.tree_util.register_dataclass(SamplingParams, [field.name for field in FIELDS], [], drop_fields=ELSEWHERE)


def on_device(params: SamplingParams) -> SamplingParams:
    """The parameters as scalars of the types that the device keeps: float32 or int32, by the type of the default."""

    def scalar(field: dataclasses.Field) -> Any:
        value = getattr(params, field.name)
        return np.float32(value) if isinstance(field.default, float) else np.int32(min(value, UNLIMITED))

    return SamplingParams(**{field.name: scalar(field) for field in FIELDS})


def bar(logits_WV: Float[Array, "W V"], barred_WV: Bool[Array, "W V"]) -> tuple[Float[Array, "W V"], Bool[Array, "W"]]:
    """Logits with barred tokens at -inf, and whether a token can be drawn from each row.

    It can where no open (not barred) logit is NaN or +inf and at least one is finite. A model may mask tokens with
    -inf; they are never drawn. What stands at barred tokens does not matter. One maximum says it all, since NaN becomes
    +inf before it: maxima need not pass NaN on (XLA's on CPUs do not), and reductions of booleans are slow there.
    """
    open_WV = jnp.where(barred_WV, -jnp.inf, jnp.where(logits_WV < jnp.inf, logits_WV, jnp.inf))
    return open_WV, jnp.isfinite(jnp.max(open_WV, axis=1))


def first_largest(logits_WV: Float[Array, "W V"]) -> Int[Array, "W"]:
    """Index of the largest logit, the lowest one on ties. Faster on CPU than argmax, which does not vectorise."""
    place_V = jnp.arange(logits_WV.shape[1], dtype=jnp.int32)
    largest_W1 = jnp.max(logits_WV, axis=1, keepdims=True)
    return jnp.min(jnp.where(logits_WV == largest_W1, place_V, logits_WV.shape[1] - 1), axis=1)


def key_of(seed: int | np.integer) -> UInt[np.ndarray, "2"]:
    """Raw threefry key of a request's root: the two halves of the seed as an int64. Every seed has its own."""
    seed = int(seed)  # NumPy's own may be narrower than the shift.
    return np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


KEY_OF_DRAWS, KEY_OF_PATHS = 0, 1
"""Folded into a segment's key first: what the key is for."""


def fold(key: UInt[Array, "2"], *data: Int[Array, ""] | int) -> UInt[Array, "2"]:
    """Raw threefry key with numbers folded in, one after the other."""
    key = jax.random.wrap_key_data(key, impl="threefry2x32")
    # A loop, so that the hash is compiled once.
    numbers = jnp.stack([jnp.asarray(value, jnp.uint32) for value in data])
    key = lax.fori_loop(0, len(data), lambda i, key: jax.random.fold_in(key, numbers[i]), key)
    return jax.random.key_data(key)


def uniforms(key_W2: UInt[Array, "W 2"], index_W: Int[Array, "W"]) -> Float[Array, "W"]:
    """A number in [0, 1) for the token with this index in a segment with this key."""

    def draw(key, index):
        key = fold(key, KEY_OF_DRAWS, index)
        return jax.random.uniform(jax.random.wrap_key_data(key, impl="threefry2x32"))

    return jax.vmap(draw)(key_W2, index_W)


def sample(
    logits_WV: Float[Array, "W V"], key_W2: UInt[Array, "W 2"], index_W: Int[Array, "W"], params_W: SamplingParams
) -> tuple[Int[Array, "W"], Int[Array, "W"]]:
    """Draw one token per row. Returns the tokens, and each row's most probable token (lowest id on ties).

    The kept set: after the temperature, the k largest logits (with those that tie with the k-th), of these the most
    probable ones up to mass p of the k-set, the one that crosses p included (with its ties); of these the ones with at
    least min-p of the largest probability. Weights are relative to it, so min-p is a bound on the weight.

    Args:
        logits_WV: float32, barred tokens -inf (`bar`). Tokens of other rows than those it says yes to mean nothing.
        key_W2: raw threefry key of each row's segment.
        index_W: index of the token to draw in its segment.
        params_W: fields are arrays [W]. A temperature of 0 takes the largest logit (lowest id on ties).
    """

    def greedy():
        token_W = first_largest(logits_WV)
        return token_W, token_W

    def drawn():
        return _drawn(logits_WV, uniforms(key_W2, index_W), params_W)

    return lax.cond(jnp.any(jnp.asarray(params_W.temperature) > 0), drawn, greedy)


def _weights(
    logits: Float[Array, "... V"], largest: Float[Array, "..."], temperature: Float[Array, "..."]
) -> Int[Array, "... V"]:
    """Probabilities relative to the largest one, as integers up to WEIGHT_ONE."""
    return jnp.round(jnp.exp((logits - largest) / temperature) * WEIGHT_ONE).astype(jnp.int32)


def _drawn(logits_WV, uniform_W, params_W):
    temperature_W, top_k_W, top_p_W = map(jnp.asarray, (params_W.temperature, params_W.top_k, params_W.top_p))
    least_W = jnp.ceil(jnp.asarray(params_W.min_p) * WEIGHT_ONE).astype(jnp.int32)
    rows, vocab_size = logits_WV.shape
    width = min(CANDIDATES, vocab_size)
    value_WC, token_WC = k_largest(logits_WV, width)
    warm_W = temperature_W > 0
    temperature_W = jnp.where(warm_W, temperature_W, 1.0)
    weight_WC = _weights(value_WC, value_WC[:, :1], temperature_W[:, None])
    in_min_WC = weight_WC >= least_W[:, None]

    # Top-k among the candidates: only where the k-th logit has no ties beyond them.
    limited_W = (top_k_W > 0) & (top_k_W < vocab_size)
    kth_W = jnp.take_along_axis(value_WC, jnp.clip(top_k_W - 1, 0, width - 1)[:, None], 1)[:, 0]
    fits_W = limited_W & (top_k_W < width) & (kth_W > value_WC[:, -1]) | (width == vocab_size)
    in_k_WC = ~limited_W[:, None] | (value_WC >= kth_W[:, None])
    weight_WC = jnp.where(in_k_WC, weight_WC, 0)

    # Top-p among the candidates: where k limits them, or where they hold more than mass p of the whole.
    whole_W = warm_W & ~limited_W & (top_p_W < 1) & (width < vocab_size)
    total_W = jnp.sum(weight_WC, axis=1).astype(jnp.float32)
    total_W = lax.cond(
        jnp.any(whole_W),
        lambda: jnp.where(whole_W, _total(_padded_weights(logits_WV, value_WC[:, 0], temperature_W)), total_W),
        lambda: total_W,
    )
    heavier_WCC = weight_WC[:, None, :] > weight_WC[:, :, None]
    mass_above_WC = jnp.sum(jnp.where(heavier_WCC, weight_WC[:, None, :], 0), axis=2)
    goal_W = top_p_W * total_W
    in_p_WC = (mass_above_WC.astype(jnp.float32) < goal_W[:, None]) | (top_p_W >= 1)[:, None]
    # Min-p ends the kept set among the candidates too, where their top-p is that of the whole.
    ends_W = ~in_min_WC[:, -1] & (whole_W | (top_p_W >= 1))
    enough_W = (whole_W & ~in_p_WC[:, -1]) | ends_W

    kept_WC = jnp.where(in_p_WC & in_min_WC, weight_WC, 0)
    up_to_WC = jnp.cumsum(kept_WC, axis=1)
    choice_W = _inverse(up_to_WC, uniform_W * up_to_WC[:, -1].astype(jnp.float32))
    narrow_W = jnp.take_along_axis(token_WC, choice_W[:, None], 1)[:, 0]

    wide_W = warm_W & ~fits_W & ~enough_W

    def widen(row, token_W):
        def slow():
            return _draw_wide(
                logits_WV[row],
                value_WC[row, 0],
                uniform_W[row],
                temperature_W[row],
                jnp.where(limited_W[row], top_k_W[row], 0),
                top_p_W[row],
                least_W[row],
            )

        return token_W.at[row].set(lax.cond(wide_W[row], slow, lambda: token_W[row]))

    # Row by row, for such rows are few: a row costs what it needs, not what the batch needs.
    narrow_W = jnp.where(warm_W, narrow_W, token_WC[:, 0])
    token_W = lax.cond(jnp.any(wide_W), lambda: lax.fori_loop(0, rows, widen, narrow_W), lambda: narrow_W)
    return token_W, token_WC[:, 0]


def _inverse(up_to: Int[Array, "... C"], threshold: Float[Array, "..."]) -> Int[Array, "..."]:
    """First place where the running sum of weights exceeds the threshold (which rounding may lift to the whole sum)."""
    threshold = jnp.minimum(threshold.astype(jnp.int32), up_to[..., -1] - 1)
    return jnp.argmax(up_to > threshold[..., None], axis=-1).astype(jnp.int32)


def _padded_weights(logits_WV, largest_W, temperature_W) -> Int[Array, "W Blocks 128"]:
    weight_WV = _weights(logits_WV, largest_W[:, None], temperature_W[:, None])
    rows, vocab_size = weight_WV.shape
    return jnp.pad(weight_WV, ((0, 0), (0, -vocab_size % BLOCK))).reshape(rows, -1, BLOCK)


def _total(weight_WBX: Int[Array, "*rows Blocks 128"]) -> Float[Array, "*rows"]:
    """Sum of weights: exact in a block, then in a fixed order."""
    return ordered_sum(jnp.sum(weight_WBX, axis=-1).astype(jnp.float32))


def ordered_sum(x: Float[Array, "*rows N"]) -> Float[Array, "*rows"]:
    """Sum along the last axis, halves added to halves: in an order that does not depend on the rows beside it."""
    while x.shape[-1] > 1:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, x.shape[-1] % 2)])
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x[..., 0]


def _draw_wide(logits_V, largest, uniform, temperature, top_k, top_p, least_weight) -> Int[Array, ""]:
    """Draw one row over the whole vocabulary: thresholds by bisection, then the inverse of the running sum."""
    ordered_V = ordered(logits_V)

    def largest_that(holds, low, high):
        """Largest threshold in [low, high) that holds, where `low` does and holding falls as it rises."""

        def halve(_, ends):
            low, high = ends
            middle = (low >> 1) + (high >> 1) + (low & high & 1)
            good = holds(middle)
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        return lax.fori_loop(0, 32, halve, (jnp.int32(low), jnp.int32(high)))[0]

    int_min, int_max = -(2**31), 2**31 - 1
    kth = lax.cond(
        top_k > 0,
        lambda: largest_that(lambda limit: jnp.sum(ordered_V >= limit, dtype=jnp.int32) >= top_k, int_min, int_max),
        lambda: jnp.int32(int_min),
    )
    weight_V = jnp.where(ordered_V >= kth, _weights(logits_V, largest, temperature), 0)
    weight_BX = jnp.pad(weight_V, (0, -weight_V.shape[0] % BLOCK)).reshape(-1, BLOCK)

    def mass_from(limit):
        return _total(jnp.where(weight_BX >= limit, weight_BX, 0))

    goal = top_p * mass_from(0)
    least = lax.cond(
        top_p < 1, lambda: largest_that(lambda limit: mass_from(limit) >= goal, 0, WEIGHT_ONE + 1), lambda: jnp.int32(0)
    )
    kept_BX = jnp.where(weight_BX >= jnp.maximum(least, least_weight), weight_BX, 0)
    sums_B = jnp.sum(kept_BX, axis=1)
    up_to_B = lax.associative_scan(jnp.add, sums_B.astype(jnp.float32))
    target = uniform * up_to_B[-1]
    # Empty blocks add nothing, so the first block that exceeds the target is not empty.
    block = jnp.argmax(up_to_B > jnp.minimum(target, up_to_B[-1] * (1 - 2**-23)))
    before = up_to_B[block] - sums_B[block].astype(jnp.float32)
    inside = jnp.clip(target - before, 0.0)
    return (block * BLOCK + _inverse(jnp.cumsum(kept_BX[block]), inside)).astype(jnp.int32)
