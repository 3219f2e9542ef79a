"""Prefill over pages against the dense oracle: chunks of several prompts in one call."""

import functools
import re

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify
from mvjax_kernels.xla import paged_attention as xla_paged
from mvjax_kernels.xla.page_blocks import PagedStreams
from oracle import attend, interval_mask

B, T, K, G, H, Z, M = 4, 24, 2, 3, 16, 16, 9
S = M * Z


@functools.cache
def jitted(rows=None, slots=None, soft_cap=None):
    """The entry, or plain XLA with tiles of a size."""
    if rows is None:
        return jax.jit(functools.partial(mvjax_kernels.paged_attention, soft_cap=soft_cap))

    def call(q, k, v, pages, hide_start, hide_end, offset, length):
        streams = PagedStreams(k, v, None, None, pages, offset + length)
        return xla_paged.paged_attention(q, streams, hide_start, hide_end, offset, H**-0.5, soft_cap, rows, slots)

    return jax.jit(call)


def nested(rng, levels):
    """Intervals as a tree makes them: level 0 hides nothing, each deeper one lies in the one above."""
    start, end = np.zeros((2, levels, S), np.int32)
    for s in range(S):
        low, high = s + 1, S
        for level in range(1, levels):
            if high - low > 2 and rng.random() < 0.7:
                low, high = np.sort(rng.choice(np.arange(low, high), 2, replace=False))
                start[level, s], end[level, s] = low, high
    return start, end


def case(seed, offset, length, levels=3, kind=None, dtype=np.float32):
    """Arguments and the oracle's output; what no chunk's stream holds is NaN, or -128 if quantised."""
    rng = np.random.default_rng(seed)
    offset_B, length_B = np.array(offset, np.int32), np.array(length, np.int32)
    q = rng.normal(size=(B, T, K * G, H)).astype(dtype)
    k, v = rng.normal(size=(2, B, S, K, H))
    k_scale, v_scale = rng.uniform(0.01, 0.1, (2, B, S, K)).astype(np.float32)
    table_BM = rng.permutation(B * M + 3)[: B * M].reshape(B, M).astype(np.int32)
    intervals = [nested(rng, levels) if levels else np.zeros((2, 0, S), np.int32) for _ in range(B)]
    hide_start, hide_end = (np.stack(x) for x in zip(*intervals))
    if kind is not None:
        k, v = (np.round(40 * x).clip(-127, 127) for x in (k, v))
    k, v = (x.astype(dtype if kind is None else kind) for x in (k, v))
    empty = np.nan if kind is None else -128
    pages = [np.full((B * M + 3, K, Z, H), empty, x.dtype) for x in (k, v)]
    scales = [np.full((B * M + 3, K, Z), np.nan, np.float32) for _ in range(2)]
    for b, s in np.ndindex(B, S):
        if s < offset_B[b] + length_B[b]:
            for paged, stream in zip((*pages, *scales), (k, v, k_scale, v_scale)):
                paged[table_BM[b, s // Z], :, s % Z] = stream[b, s]
    table_BM = np.where(np.arange(M) * Z < (offset_B + length_B)[:, None], table_BM, 10**6)
    visible_BTS = interval_mask(hide_start, hide_end, T, offset_B) & (np.arange(T) < length_B[:, None])[..., None]
    streams = [
        np.asarray(x, np.float64) * (1 if kind is None else scale[..., None])
        for x, scale in ((k, k_scale), (v, v_scale))
    ]
    arguments = [jnp.asarray(x) for x in (q, *pages, table_BM, hide_start, hide_end, offset_B, length_B)]
    named = {} if kind is None else dict(zip(("k_scale_PKZ", "v_scale_PKZ"), map(jnp.asarray, scales)))
    return arguments, named, attend(q, *streams, visible_BTS)[0]


def check(call, arguments, named, wanted, bound=2e-6):
    got = np.asarray(call(*arguments, **named), np.float64)
    assert np.abs(got - wanted).max() <= bound * max(1, np.abs(wanted).max())
    behind = np.arange(T) >= np.asarray(arguments[-1])[:, None]
    assert (got[behind] == 0).all()


OFFSET, LENGTH = (0, 17, 100, S - T), (T, 3, 0, T)


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize(("rows", "slots"), [(None, None), (8, 1), (8, 64), (16, 32), (24, 1000)])
def test_chunks_equal_the_oracle(levels, rows, slots):
    check(jitted(rows, slots), *case(levels, OFFSET, LENGTH, levels))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_chunks_of_any_length_anywhere_equal_the_oracle(seed, data):
    length = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    offset = [data.draw(st.integers(0, S - n)) for n in length]
    check(jitted(8, 32), *case(seed, offset, length))


@pytest.mark.parametrize("kind", [jnp.int8, jnp.float8_e4m3fn], ids=str)
def test_quantised_pages_equal_the_oracle(kind):
    check(jitted(), *case(1, OFFSET, LENGTH, kind=kind))


def test_bfloat16_loses_only_its_rounding():
    arguments, named, wanted = case(2, OFFSET, LENGTH, dtype=jnp.bfloat16)
    assert jitted()(*arguments).dtype == jnp.bfloat16
    check(jitted(), arguments, named, wanted, 2**-8)


def test_a_soft_cap_bounds_the_logits():
    arguments, named, _ = case(3, OFFSET, LENGTH)
    q, k, v, table, start, end, offset, length = arguments
    strong = [20 * q, *arguments[1:]]
    streams = [np.nan_to_num(np.asarray(x)[np.minimum(table, len(x) - 1)]) for x in (k, v)]
    streams = [x.swapaxes(2, 3).reshape(B, S, K, H) for x in streams]
    visible = interval_mask(np.asarray(start), np.asarray(end), T, offset) & (np.arange(T) < length[:, None])[..., None]
    wanted, _ = attend(20 * np.asarray(q), *streams, visible, soft_cap=3.0)
    check(jitted(soft_cap=3.0), strong, named, wanted)


def test_a_request_gets_the_same_numbers_whoever_is_beside_it():
    """Bit for bit: beside others, beside blank rows, and by itself."""
    arguments, _, _ = case(4, (0, 17, 100, S - T), (T, 3, 8, T))
    *shared, offset, length = arguments
    got = np.asarray(jitted()(*arguments))
    for b in range(B):
        beside = jnp.where(jnp.arange(B) == b, length, 0)
        np.testing.assert_array_equal(np.asarray(jitted()(*shared, offset, beside))[b], got[b])
        q, k, v, *rows = shared
        one = slice(b, b + 1)
        alone = jitted()(q[one], k, v, *(x[one] for x in rows), offset[one], length[one])
        np.testing.assert_array_equal(np.asarray(alone)[0], got[b])


def test_values_are_checked_on_request():
    arguments, _, _ = case(0, OFFSET, LENGTH)
    checked = jax.jit(checkify.checkify(functools.partial(mvjax_kernels.paged_attention, check_values=True)))
    checked(*arguments)[0].throw()
    for index, change, message in (
        (6, jnp.array([0, 142, 0, 0]), r"length\[1\] = 145 is outside 0 to 144"),
        (3, arguments[3] + 99, "is no page: there are 39"),
        (4, arguments[4] - 1, "hide_start is negative"),
    ):
        wrong = [change if i == index else x for i, x in enumerate(arguments)]
        with pytest.raises(checkify.JaxRuntimeError, match=message):
            checked(*wrong)[0].throw()


BAD = {
    "hide_end has shape (4, 3, 143), 4 requests of 9 pages of 16 slots need (4, 3, 144)": (
        5,
        jnp.zeros((B, 3, S - 1), jnp.int32),
    ),
    "B is 4": (6, jnp.zeros(3, jnp.int32)),
    "length must be int32, got float32": (7, jnp.zeros(B)),
    "q, k and v must have one dtype": (0, jnp.zeros((B, T, K * G, H), jnp.bfloat16)),
    "no multiple of 2 kv heads": (0, jnp.zeros((B, T, 3, H))),
}


@pytest.mark.usefixtures("arrays_of_any_type")
@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_value(message):
    arguments, _, _ = case(0, OFFSET, LENGTH)
    index, bad = BAD[message]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        mvjax_kernels.paged_attention(*[bad if i == index else x for i, x in enumerate(arguments)])
