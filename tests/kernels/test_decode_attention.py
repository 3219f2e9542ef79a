"""Decode attention over KV streams against the dense oracle and the training kernel, and in place inside a loop."""

import functools
import re

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvjax_kernels.xla.decode_attention import merge_parts
from oracle import attend
from packed_trees import TreeShape, packed_batch

SIZES = [(1, 1, 3, 3, 8, 40), (2, 5, 6, 2, 16, 33), (3, 32, 2, 1, 8, 64)]
"""Requests, lanes, query heads, kv heads, head dim, slots."""


@functools.cache
def jitted(soft_cap=None, scale=None):
    return jax.jit(functools.partial(mvjax_kernels.decode_attention, soft_cap=soft_cap, scale=scale))


def kv_streams(seed, sizes, dtype=jnp.float32):
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
def test_decoding_equals_the_oracle(sizes, options, seed):
    q, k, v, words_RS, sees_RLS = kv_streams(seed, sizes)
    wanted, lse = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), sees_RLS, options.get("scale"), options.get("soft_cap"))
    for words in (words_RS, words_RS.view(np.int32)):
        got = np.asarray(jitted(**options)(q, k, v, jnp.asarray(words)))
        assert np.abs(got - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())
        assert (got[np.isinf(lse)] == 0).all()


def test_a_lane_that_sees_nothing_yields_zero():
    q, k, v, _, _ = kv_streams(0, SIZES[1])
    words_RS = jnp.full((2, 33), 0b01101, jnp.int32)
    got = np.asarray(jitted()(q, k, v, words_RS))
    assert (got[:, [1, 4]] == 0).all()
    assert np.isfinite(got).all()
    assert (got[:, [0, 2, 3]] != 0).all()


def test_bits_beyond_the_lanes_change_nothing():
    q, k, v, words_RS, _ = kv_streams(1, SIZES[1])
    np.testing.assert_array_equal(jitted()(q, k, v, words_RS), jitted()(q, k, v, words_RS | np.uint32(0xFFFFFFE0)))


def test_bfloat16_loses_only_the_rounding_of_the_result():
    q, k, v, words_RS, sees_RLS = kv_streams(4, SIZES[1], jnp.bfloat16)
    wanted, _ = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), sees_RLS)
    got = jitted()(q, k, v, words_RS)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float64) - wanted).max() <= 2**-8 * np.abs(wanted).max()


def test_a_decode_loop_copies_no_kv_stream():
    """Append keys and values and attend over them in a while_loop: the compiled program holds one copy of each."""
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
    copied = rf"f32\[({R},)?{K},{S},{H}\]\S* (copy|transpose)\("
    assert re.search(copied, program.as_text()) is None


TOKENS = 64


@functools.cache
def both_ways(paged: bool):
    """(q, k, v, hide_start, hide_end, slot of each token, words) -> (training's rows, decoding's)."""
    options = {"soft_cap": 5.0, "scale": 0.4, "backend": "xla"}

    @jax.jit
    def run(q_BTNH, k_BTKH, v_BTKH, start_BET, end_BET, token_S, words_RS):
        rows_BTNH = mvjax_kernels.attention(q_BTNH, k_BTKH, v_BTKH, start_BET, end_BET, **options)
        q_RLNH = q_BTNH.reshape(-1, 32, *q_BTNH.shape[2:])
        k_KSH, v_KSH = (x_BTKH[0, token_S].swapaxes(0, 1) for x_BTKH in (k_BTKH, v_BTKH))
        if not paged:
            shared = (jnp.broadcast_to(x_KSH, (len(q_RLNH), *x_KSH.shape)) for x_KSH in (k_KSH, v_KSH))
            return rows_BTNH, mvjax_kernels.decode_attention(q_RLNH, *shared, words_RS, **options)
        K, S, H = k_KSH.shape
        k_PKZH, v_PKZH = (x_KSH.reshape(K, -1, 16, H).swapaxes(0, 1) for x_KSH in (k_KSH, v_KSH))
        pages_RM = jnp.broadcast_to(jnp.arange(S // 16, dtype=jnp.int32), (len(q_RLNH), S // 16))
        tables = pages_RM, jnp.full(len(q_RLNH), S, jnp.int32)
        return rows_BTNH, mvjax_kernels.paged_decode_attention(q_RLNH, k_PKZH, v_PKZH, *tables, words_RS, **options)

    return run


@pytest.mark.parametrize("paged", [False, True])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(1, 3), text=st.integers(1, 9))
def test_a_transcript_decoded_in_any_order_gives_the_rows_of_training(paged, seed, depth, text):
    """The slots of a KV stream come in the order in which tokens were made; a row sees its words' slots, training's
    row the same tokens by hidden intervals. One request of 32 lanes for each 32 tokens of a packed row of trees."""
    rng = np.random.default_rng(seed)
    start_BET, end_BET, visible_BTT = packed_batch(seed, 1, TOKENS, 4, TreeShape(depth=depth, text=text))
    q, k, v = (jnp.asarray(rng.normal(size=(1, TOKENS, heads, 16)), jnp.float32) for heads in (4, 2, 2))
    token_S = rng.permutation(TOKENS)
    sees_RLS = visible_BTT[0][:, token_S].reshape(-1, 32, TOKENS)
    words_RS = (sees_RLS.astype(np.uint64) << np.arange(32, dtype=np.uint64)[:, None]).sum(1).astype(np.uint32)
    training, decoded = both_ways(paged)(q, k, v, start_BET, end_BET, token_S, words_RS)
    np.testing.assert_allclose(np.asarray(decoded).reshape(training.shape), training, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), parts=st.integers(1, 5))
def test_parts_of_a_kv_stream_merge_to_the_whole(seed, parts):
    """What GPU programs leave: output and log-sum-exp of each part, -inf where a row sees nothing of it."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(1, size, 1, 8)) for size in (6, 40, 40))
    sees_BTS = rng.random((1, 6, 40)) < rng.choice([0.02, 0.5, 1.0], (1, 6, 1))
    sees_BTS[:, 0] = False
    cuts = np.sort(rng.integers(0, 41, parts - 1))
    pieces = []
    for part_S in np.split(np.arange(40), cuts):
        inside_BTS = sees_BTS & np.isin(np.arange(40), part_S)
        o, lse = attend(q, k, v, inside_BTS)
        pieces.append((o[:, :, 0], lse[:, :, 0]))
    o_RKXMH, lse_RKXM = (np.stack(x, 1)[None].astype(np.float32) for x in zip(*pieces))
    got = merge_parts(jnp.asarray(o_RKXMH), jnp.asarray(lse_RKXM))
    np.testing.assert_allclose(np.asarray(got)[0], attend(q, k, v, sees_BTS)[0][:, :, 0], atol=2e-6)
    assert (np.asarray(got)[:, :, 0] == 0).all()


BAD = {
    "33 lanes a request, but a visibility word has 32 bits": {"q": jnp.zeros((1, 33, 4, 8))},
    "words must be int32 or uint32, got bool": {"words": jnp.zeros((1, 16), bool)},
    "S is 16": {"words": jnp.zeros((1, 15), jnp.int32)},
    "R is 1": {"k": jnp.zeros((2, 2, 16, 8))},
    "3 query heads are no multiple of 2": {"q": jnp.zeros((1, 2, 3, 8))},
    "one dtype": {"q": jnp.zeros((1, 2, 4, 8), jnp.bfloat16)},
    "'pages' does not exist": {"backend": "pages"},
}


@pytest.mark.usefixtures("arrays_of_any_type")
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
