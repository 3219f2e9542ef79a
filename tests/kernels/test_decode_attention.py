"""Decode attention over streams against the dense oracle, and in place inside a loop."""

import functools
import re

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from oracle import attend

SIZES = [(1, 1, 3, 3, 8, 40), (2, 5, 6, 2, 16, 33), (3, 32, 2, 1, 8, 64)]
"""Requests, lanes, query heads, kv heads, head dim, slots."""


@functools.cache
def jitted(soft_cap=None, scale=None):
    call = jaxtyped(typechecker=beartype)(mvjax_kernels.decode_attention)
    return jax.jit(functools.partial(call, soft_cap=soft_cap, scale=scale))


def streams(seed, sizes, dtype=jnp.float32):
    R, L, N, K, H, S = sizes
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.normal(size=size), dtype) for size in ((R, L, N, H), (R, K, S, H), (R, K, S, H))]
    sees_RLS = rng.random((R, L, S)) < rng.choice([0.02, 0.5, 0.98], (R, L, 1))
    words_RS = (sees_RLS.astype(np.uint64) << np.arange(L, dtype=np.uint64)[:, None]).sum(1).astype(np.uint32)
    return *arrays, words_RS, sees_RLS


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", [{}, {"soft_cap": 2.0, "scale": 0.9}], ids=str)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_streams_equal_the_oracle(sizes, options, seed):
    q, k, v, words_RS, sees_RLS = streams(seed, sizes)
    wanted, lse = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), sees_RLS, options.get("scale"), options.get("soft_cap"))
    for words in (words_RS, words_RS.view(np.int32)):
        got = np.asarray(jitted(**options)(q, k, v, jnp.asarray(words)))
        assert np.abs(got - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())
        assert (got[np.isinf(lse)] == 0).all()


def test_a_lane_that_sees_nothing_yields_zero():
    q, k, v, _, _ = streams(0, SIZES[1])
    words_RS = jnp.full((2, 33), 0b01101, jnp.int32)
    got = np.asarray(jitted()(q, k, v, words_RS))
    assert (got[:, [1, 4]] == 0).all()
    assert np.isfinite(got).all()
    assert (got[:, [0, 2, 3]] != 0).all()


def test_bits_beyond_the_lanes_change_nothing():
    q, k, v, words_RS, _ = streams(1, SIZES[1])
    np.testing.assert_array_equal(jitted()(q, k, v, words_RS), jitted()(q, k, v, words_RS | np.uint32(0xFFFFFFE0)))


def test_bfloat16_loses_only_the_rounding_of_the_result():
    q, k, v, words_RS, sees_RLS = streams(4, SIZES[1], jnp.bfloat16)
    wanted, _ = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), sees_RLS)
    got = jitted()(q, k, v, words_RS)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float64) - wanted).max() <= 2**-8 * np.abs(wanted).max()


def test_a_decode_loop_copies_no_stream():
    """Append to the stream and attend over it in a while_loop: the compiled program holds one copy of each stream."""
    R, L, N, K, H, S = 1, 4, 6, 2, 64, 1024

    def step(carry):
        slot, q_RLNH, k_RKSH, v_RKSH = carry
        new_RKLH = q_RLNH.reshape(R, L, K, N // K, H)[:, :, :, 0].swapaxes(1, 2)
        k_RKSH = jax.lax.dynamic_update_slice(k_RKSH, new_RKLH, (0, 0, slot, 0))
        v_RKSH = jax.lax.dynamic_update_slice(v_RKSH, new_RKLH, (0, 0, slot, 0))
        words_RS = jnp.where(jnp.arange(S) < slot + L, -1, 0).astype(jnp.int32)[None]
        return slot + L, mvjax_kernels.decode_attention(q_RLNH, k_RKSH, v_RKSH, words_RS), k_RKSH, v_RKSH

    def loop(q_RLNH, k_RKSH, v_RKSH):
        return jax.lax.while_loop(lambda carry: carry[0] < 64, step, (jnp.int32(0), q_RLNH, k_RKSH, v_RKSH))

    q, kv = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((R, L, N, H), (R, K, S, H)))
    program = jax.jit(loop, donate_argnums=(1, 2)).lower(q, kv, kv).compile()
    assert program.memory_analysis().temp_size_in_bytes < K * S * H * 4
    stream = rf"f32\[({R},)?{K},{S},{H}\]\S* (copy|transpose)\("
    assert re.search(stream, program.as_text()) is None


BAD = {
    "33 lanes a request, but a visibility word has 32 bits": {"q": jnp.zeros((1, 33, 4, 8))},
    "words must be int32 or uint32, got bool": {"words": jnp.zeros((1, 16), bool)},
    "S is 16": {"words": jnp.zeros((1, 15), jnp.int32)},
    "R is 1": {"k": jnp.zeros((2, 2, 16, 8))},
    "3 query heads are no multiple of 2": {"q": jnp.zeros((1, 2, 3, 8))},
    "one dtype": {"q": jnp.zeros((1, 2, 4, 8), jnp.bfloat16)},
    "'pages' does not exist": {"backend": "pages"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_value(message):
    arrays = {
        "q": jnp.zeros((1, 2, 4, 8)),
        "k": jnp.zeros((1, 2, 16, 8)),
        "v": jnp.zeros((1, 2, 16, 8)),
        "words": jnp.zeros((1, 16), jnp.int32),
    }
    changed = {**arrays, **BAD[message]}
    options = {name: changed.pop(name) for name in list(changed) if name not in arrays}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        mvjax_kernels.decode_attention(*changed.values(), **options)
