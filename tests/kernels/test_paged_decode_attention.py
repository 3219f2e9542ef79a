"""Decode over pages, by the TPU kernel step by step and in plain XLA, against the dense oracle."""

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
from mvjax_kernels.xla import decode_attention as xla_decode
from mvjax_kernels.xla.page_blocks import PagedStreams
from oracle import attend

R, L, K, G, H, Z, M = 3, 4, 2, 3, 64, 128, 4
LENGTHS = np.array([300, 0, 512], np.int32)
NAMES = ("q_RLNH", "k_PKZH", "v_PKZH", "pages_RM", "length_R", "words_RS")


@functools.cache
def jitted(backend: str, soft_cap=None):
    return jax.jit(functools.partial(mvjax_kernels.paged_decode_attention, backend=backend, soft_cap=soft_cap))


def paged(seed, kind=None, dtype=np.float32):
    """Arguments by name, and what the oracle makes of them. What lies behind an end is NaN, or -128 if quantised."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(R, L, K * G, H))
    k, v = (rng.normal(size=(R * M + 1, K, Z, H)) for _ in range(2))
    scales = {}
    if kind is not None:
        k, v = (np.round(40 * x).clip(-127, 127) if kind == jnp.int8 else x for x in (k, v))
        scales = {
            name: rng.uniform(0.01, 0.1, (R * M + 1, K, Z)).astype(np.float32)
            for name in ("k_scale_PKZ", "v_scale_PKZ")
        }
    k, v = (x.astype(dtype if kind is None else kind) for x in (k, v))
    q = q.astype(dtype)
    pages_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    words_RS = rng.integers(0, 2**L, (R, M * Z)).astype(np.uint32)
    sees_RLS = ((words_RS[:, None] >> np.arange(L, dtype=np.uint32)[:, None]) & 1 > 0) & (
        np.arange(M * Z) < LENGTHS[:, None, None]
    )
    streams = []
    for x, scale in zip((k, v), scales.values() or (None, None)):
        x = np.asarray(x, np.float64) * (1 if scale is None else scale[..., None])
        streams.append(x[pages_RM].transpose(0, 1, 3, 2, 4).reshape(R, M * Z, K, H))
    wanted, _ = attend(q, *streams, sees_RLS)
    dead_RS = np.arange(M * Z) >= LENGTHS[:, None]
    place = pages_RM[:, :, None].repeat(Z, 2).reshape(R, -1)[dead_RS], np.nonzero(dead_RS)[1] % Z
    for x in (k, v):
        x[place[0], :, place[1]] = -128 if kind == jnp.int8 else np.nan
    pages_RM = np.where(np.arange(M) * Z < LENGTHS[:, None], pages_RM, R * M)
    arguments = dict(zip(NAMES, (q, k, v, pages_RM, LENGTHS, words_RS))) | scales
    return {name: jnp.asarray(x) for name, x in arguments.items()}, wanted


@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
@pytest.mark.parametrize("kind", [None, jnp.int8, jnp.float8_e4m3fn], ids=str)
def test_pages_equal_the_oracle(backend, kind):
    for seed in range(3):
        arguments, wanted = paged(seed, kind)
        got = np.asarray(jitted(backend)(**arguments))
        assert np.abs(got - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())
        assert (got[1] == 0).all()


def poisoned(pages, table_RM, length_R):
    """The pages of contiguous streams [R, K, S, H] under a table; what no live slot holds is NaN."""
    stream_RKSH, P = pages, int(table_RM.max()) + 2
    out_PKZH = np.full((P, K, Z, H), np.nan, np.float32)
    for r, m in np.ndindex(*table_RM.shape):
        live = np.clip(length_R[r] - m * Z, 0, Z)
        out_PKZH[table_RM[r, m], :, :live] = stream_RKSH[r, :, m * Z : m * Z + live]
    return jnp.asarray(out_PKZH)


@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, M * Z), min_size=R, max_size=R))
def test_pages_give_what_the_contiguous_stream_gives(backend, seed, lengths):
    """Whatever the order of the pages and the length of each stream."""
    rng = np.random.default_rng(seed)
    length_R = np.array(lengths, np.int32)
    q = rng.normal(size=(R, L, K * G, H)).astype(np.float32)
    k, v = (rng.normal(size=(R, K, M * Z, H)).astype(np.float32) for _ in range(2))
    table_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    words_RS = rng.integers(0, 2**L, (R, M * Z)).astype(np.uint32)
    live_RS = np.arange(M * Z) < length_R[:, None]
    arrays = [poisoned(x, table_RM, length_R) for x in (k, v)]
    got = np.asarray(jitted(backend)(q, *arrays, table_RM, length_R, words_RS))
    contiguous = [np.where(live_RS[:, None, :, None], x, 0) for x in (k, v)]
    wanted = np.asarray(contiguously(q, *contiguous, np.where(live_RS, words_RS, 0)))
    assert np.abs(got - wanted).max() <= 2e-6
    assert (got[length_R == 0] == 0).all()


@functools.cache
def in_blocks(slots: int, together: int):
    """Plain XLA with blocks of this size, for this number of requests together."""

    def call(q, k, v, pages, length, words):
        streams = PagedStreams(k, v, None, None, pages, length)
        return xla_decode.paged_decode_attention(q, streams, words, H**-0.5, None, slots, together)

    return jax.jit(call)


@pytest.mark.parametrize(("slots", "together"), [(64, 1), (64, 3), (64, 5), (1, 1), (1000, 2)])
def test_a_request_gets_the_same_numbers_whoever_is_beside_it(slots, together):
    """Bit for bit, in plain XLA: beside longer and shorter ones, beside streams that are empty, and alone. Tables whose
    last block is shorter than the others; slots behind an end, and pages that nobody names, hold NaN."""
    rng = np.random.default_rng(slots)
    page, width = 16, 15
    length_R = np.array([17, 240, 0, 64, 65], np.int32)
    q = rng.normal(size=(5, 3, K * G, H)).astype(np.float32)
    table_RM = rng.permutation(5 * width).reshape(5, width).astype(np.int32)
    streams = rng.normal(size=(2, 5, width * page, K, H)).astype(np.float32)
    words_RS = rng.integers(0, 8, (5, width * page)).astype(np.uint32)
    words_RS[1, 64:192] = 0  # Whole blocks that no lane sees.
    pages = np.full((2, 5 * width, K, page, H), np.nan, np.float32)
    for r, s in np.ndindex(5, width * page):
        if s < length_R[r]:
            pages[:, table_RM[r, s // page], :, s % page] = streams[:, r, s]
    sees_RLS = ((words_RS[:, None] >> np.arange(3, dtype=np.uint32)[:, None]) & 1 > 0) & (
        np.arange(width * page) < length_R[:, None, None]
    )
    wanted, _ = attend(q, *streams, sees_RLS)
    call = in_blocks(slots, together)
    got = np.asarray(call(q, *pages, table_RM, length_R, words_RS))
    assert np.abs(got - wanted).max() <= 2e-6 * np.abs(wanted).max()
    for r, length in enumerate(length_R):
        beside = np.where(np.arange(5) == r, length, 0).astype(np.int32)
        np.testing.assert_array_equal(np.asarray(call(q, *pages, table_RM, beside, words_RS))[r], got[r])
        if together > 1:  # A program for one request alone may have its products in another form.
            continue
        one = slice(r, r + 1)
        alone = call(q[one], *pages, table_RM[one], length_R[one], words_RS[one])
        np.testing.assert_array_equal(np.asarray(alone)[0], got[r])


contiguously = jax.jit(mvjax_kernels.decode_attention)


def test_the_last_bit_of_a_word_is_a_lane_too():
    rng = np.random.default_rng(9)
    q = rng.normal(size=(1, 32, 2, H)).astype(np.float32)
    k, v = (rng.normal(size=(2, 1, Z, H)).astype(np.float32) for _ in range(2))
    words_RS = rng.integers(0, 2**32, (1, 2 * Z), np.uint32)
    pages, length = np.array([[1, 0]], np.int32), np.array([200], np.int32)
    xla, kernel = (jitted(backend)(q, k, v, pages, length, words_RS) for backend in ("xla", "tpu_interpret"))
    np.testing.assert_allclose(kernel, xla, atol=2e-6)
    unsigned = jitted("tpu_interpret")(q, k, v, pages, length, words_RS.view(np.int32))
    np.testing.assert_array_equal(kernel, unsigned)


@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
def test_bfloat16_loses_only_its_rounding(backend):
    arguments, wanted = paged(4, dtype=jnp.bfloat16)
    got = jitted(backend)(**arguments)
    assert got.dtype == jnp.bfloat16
    # The TPU kernel rounds the weights to 16 bits too before they multiply the values.
    bound = 2**-8 if backend == "xla" else 2**-7
    assert np.abs(np.asarray(got, np.float64) - wanted).max() <= bound * np.abs(wanted).max()


@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
@pytest.mark.parametrize(
    ("lanes", "dtype"),
    [
        (5, np.float32),
        (8, jnp.bfloat16),
        (32, np.float32),
        pytest.param(1, np.float32, marks=pytest.mark.slow),
    ],
)
def test_new_slots_go_to_their_pages_and_nowhere_else(backend, lanes, dtype):
    rng = np.random.default_rng(lanes)
    pages_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    old = [jnp.asarray(rng.normal(size=(R * M, K, Z, H)), dtype) for _ in range(2)]
    new = [jnp.asarray(rng.normal(size=(R, lanes, K, H)), dtype) for _ in range(2)]
    write = jax.jit(functools.partial(mvjax_kernels.write_paged_kv, backend=backend))
    for start_R in ([0, 37, 509], [120, 128, 300], [127, 255, 16]):
        got = write(*old, *new, pages_RM, np.array(start_R, np.int32))
        for before, fresh, after in zip(old, new, got):
            wanted = np.array(before)
            for r, lane in np.ndindex(R, lanes):
                slot = start_R[r] + lane
                if slot < M * Z:
                    wanted[pages_RM[r, slot // Z], :, slot % Z] = fresh[r, lane]
            np.testing.assert_array_equal(after, wanted)


@pytest.mark.parametrize(
    "lanes", [5, pytest.param(1, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
def test_new_slots_in_int8_have_scales_of_their_own(backend, lanes):
    rng = np.random.default_rng(lanes)
    pages_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    old = [jnp.asarray(rng.integers(-128, 128, (R * M, K, Z, H)), jnp.int8) for _ in range(2)]
    old += [jnp.asarray(rng.normal(size=(R * M, K, Z)), jnp.float32) for _ in range(2)]
    new = rng.normal(size=(2, R, lanes, K, H)) * np.exp(rng.normal(size=(2, R, lanes, K, 1)) * 4)
    new[0, 1, 0, 1] = 0
    new = new.astype(np.float32)

    @jax.jit
    def write(k, v, k_scale, v_scale, start_R):
        scales = {"k_scale_PKZ": k_scale, "v_scale_PKZ": v_scale}
        news = map(jnp.asarray, (*new, pages_RM))
        return mvjax_kernels.write_paged_kv(k, v, *news, start_R, **scales, backend=backend)

    scale = np.abs(new).max(-1) * np.float32(1 / 127)
    values = np.rint(new / np.where(scale == 0, 1, scale)[..., None])
    for start_R in ([0, 37, 509], [120, 128, 300], [127, 255, 16]):
        got = write(*old, np.array(start_R, np.int32))
        for before, fresh, after in zip(old, (*values, *scale), got, strict=True):
            wanted = np.array(before)
            for r, lane in np.ndindex(R, lanes):
                slot = start_R[r] + lane
                if slot < M * Z:
                    wanted[pages_RM[r, slot // Z], :, slot % Z] = fresh[r, lane]
            np.testing.assert_array_equal(after, wanted)


@functools.cache
def writer(backend: str):
    return jax.jit(functools.partial(mvjax_kernels.write_paged_kv, backend=backend))


@pytest.mark.parametrize("backend", ["xla", "tpu_interpret"])
@settings(max_examples=8, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_stream_that_is_written_slot_by_slot_reads_back_as_it_was_written(backend, data, seed):
    """Three requests write 3 slots at a time from anywhere, the end of the table included; other slots keep theirs."""
    rng = np.random.default_rng(seed)
    table_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    pages = [jnp.asarray(rng.normal(size=(R * M, K, Z, H)), jnp.float32) for _ in range(2)]
    kept = [np.array(x)[table_RM].transpose(0, 1, 3, 2, 4).reshape(R, M * Z, K, H) for x in pages]
    for _ in range(3):
        start_R = np.array(data.draw(st.lists(st.integers(0, M * Z + 2), min_size=R, max_size=R)), np.int32)
        new = [rng.normal(size=(R, 3, K, H)).astype(np.float32) for _ in range(2)]
        pages = writer(backend)(*pages, *map(jnp.asarray, new), table_RM, start_R)
        for kept_RSKH, new_RLKH in zip(kept, new):
            for r, start in enumerate(start_R):
                kept_RSKH[r, start : start + 3] = new_RLKH[r, : max(0, M * Z - start)]
    for page, kept_RSKH in zip(pages, kept):
        read = np.asarray(page)[table_RM].transpose(0, 1, 3, 2, 4).reshape(R, M * Z, K, H)
        np.testing.assert_array_equal(read, kept_RSKH)


def test_pages_are_written_in_place():
    """The compiled program holds one copy of the pages: they are donated, and nothing of their size beside them."""
    pages, new = (jax.ShapeDtypeStruct(size, jnp.float32) for size in ((64, K, Z, H), (R, L, K, H)))
    table, start = jax.ShapeDtypeStruct((R, M), jnp.int32), jax.ShapeDtypeStruct((R,), jnp.int32)
    write = jax.jit(functools.partial(mvjax_kernels.write_paged_kv, backend="xla"), donate_argnums=(0, 1))
    memory = write.lower(pages, pages, new, new, table, start).compile().memory_analysis()
    assert memory.alias_size_in_bytes == 2 * 64 * K * Z * H * 4
    assert memory.temp_size_in_bytes < 64 * K * Z * H * 4 / 8


def test_values_are_checked_on_request():
    arguments, _ = paged(0)
    call = functools.partial(mvjax_kernels.paged_decode_attention, backend="xla", check_values=True)
    checked = jax.jit(checkify.checkify(call))
    checked(**arguments)[0].throw()
    for change, message in (
        ({"length_R": jnp.array([300, 600, 3])}, r"length\[1\] = 600 is outside 0 to 512"),
        ({"pages_RM": arguments["pages_RM"] + np.eye(R, M, dtype=np.int32) * 99}, r"is no page: there are 13"),
    ):
        with pytest.raises(checkify.JaxRuntimeError, match=message):
            checked(**arguments | change)[0].throw()


BAD = {
    "words has 511 slots, 4 pages of 128 have 512": {"words_RS": jnp.zeros((R, 511), jnp.uint32)},
    "33 lanes a request": {"q_RLNH": jnp.zeros((R, 33, K * G, H))},
    "pages must be int32, got float32": {"pages_RM": jnp.zeros((R, M))},
    "give both k_scale and v_scale": {"k_scale_PKZ": jnp.zeros((R * M + 1, K, Z))},
    "R is 3": {"length_R": jnp.zeros(2, jnp.int32)},
    "k with scales must be int8": {f"{x}_scale_PKZ": jnp.zeros((R * M + 1, K, Z)) for x in "kv"},
    "needs a TPU": {"backend": "tpu"},
    "it reads pages of a multiple of 128 slots, not 64": {
        "backend": "tpu_interpret",
        **{name: jnp.zeros((R * M + 1, K, 64, H)) for name in ("k_PKZH", "v_PKZH")},
        "words_RS": jnp.zeros((R, M * 64), jnp.uint32),
    },
    "keep the pages in bfloat16": {
        "backend": "tpu_interpret",
        "q_RLNH": jnp.zeros((R, L, K * G, H), jnp.float16),
        **{name: jnp.zeros((R * M + 1, K, Z, H), jnp.float16) for name in ("k_PKZH", "v_PKZH")},
    },
    "needs an NVIDIA GPU": {"backend": "gpu"},
}


def test_contiguous_streams_are_xla_s():
    q, kv, words = jnp.zeros((1, 2, 2, H)), jnp.zeros((1, 1, 64, H)), jnp.zeros((1, 64), jnp.uint32)
    contiguously(q, kv, kv, words)
    with pytest.raises(ValueError, match=r"it decodes over pages only \(paged_decode_attention\)"):
        mvjax_kernels.decode_attention(q, kv, kv, words, backend="tpu_interpret")


@pytest.mark.usefixtures("arrays_of_any_type")
@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_value(message):
    arguments, _ = paged(0)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        mvjax_kernels.paged_decode_attention(**arguments | BAD[message])
