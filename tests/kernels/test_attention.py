"""Attention over hidden intervals against the dense oracle in float64, forward and backward."""

import functools
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify
from mvjax_kernels.tpu import attention as tpu_attention
from mvjax_kernels.xla import attention as xla_attention
from oracle import attend, interval_mask, tile_any
from packed_trees import INT32_MAX, TreeShape, packed_batch


@dataclass(frozen=True)
class Shape:
    """Sizes of a call; `tile` = (rows, keys) of small tiles, None for the entry's own. On this machine the TPU kernels
    are interpreted."""

    batch: int
    length: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    levels: int
    tile: tuple[int, int] | None
    soft_cap: float | None = None
    scale: float | None = None
    kernel: str = "xla"


SHAPES = (
    Shape(2, 61, 61, 6, 2, 16, 4, (16, 8)),
    Shape(1, 40, 40, 3, 3, 8, 1, (16, 16), scale=0.7),
    Shape(2, 33, 70, 4, 1, 16, 6, (8, 32), soft_cap=3.0),
    Shape(1, 150, 150, 9, 3, 64, 5, None),
    Shape(3, 1, 17, 2, 1, 8, 2, None, soft_cap=1.5, scale=1.3),
)
TPU_SHAPES = (
    replace(SHAPES[2], kernel="tpu", levels=6),
    Shape(1, 150, 150, 4, 2, 64, 1, None, kernel="tpu"),
    replace(SHAPES[0], kernel="tpu"),
)


@functools.cache
def jitted(shape: Shape):
    """(q, k, v, hide_start, hide_end, offset, do, dlse) -> (o, lse, dq, dk, dv)."""

    def forward(hide_start, hide_end, offset, q, k, v):
        if shape.tile is None:
            options = {"soft_cap": shape.soft_cap, "scale": shape.scale, "return_lse": True}
            options["backend"] = {"xla": "xla", "tpu": "tpu_interpret"}[shape.kernel]
            return mvjax_kernels.attention(q, k, v, hide_start, hide_end, q_offset=offset, **options)
        scale = shape.head_dim**-0.5 if shape.scale is None else shape.scale
        args = (q, k, v, hide_start, hide_end, offset.reshape(len(offset), -1), scale, shape.soft_cap, *shape.tile)
        return xla_attention.attention(*args) if shape.kernel == "xla" else tpu_attention.attention(*args, True)

    @jax.jit
    def run(q, k, v, hide_start, hide_end, offset, do, dlse):
        (o, lse), pull = jax.vjp(functools.partial(forward, hide_start, hide_end, offset), q, k, v)
        return o, lse, *pull((do, dlse))

    return run


def inputs(shape: Shape, rng, dtype=np.float32):
    def normal(*size):
        return jnp.asarray(rng.normal(size=size), dtype)

    B, T, S, N, K, H = shape.batch, shape.length, shape.keys, shape.heads, shape.kv_heads, shape.head_dim
    return normal(B, T, N, H), normal(B, S, K, H), normal(B, S, K, H), normal(B, T, N, H), normal(B, T, N)


def visible_pairs(start_BES, end_BES, length: int, offset):
    """bool[B, T, S]; `offset` [B], or [B, C] of C chunks of queries one behind the other."""
    offset_BC = np.reshape(offset, (len(start_BES), -1))
    chunk = length // offset_BC.shape[1]
    return np.concatenate([interval_mask(start_BES, end_BES, chunk, offset_B) for offset_B in offset_BC.T], 1)


def check(shape: Shape, start_BES, end_BES, offset, seed, dtype=np.float32, bounds=(2e-6, 2e-5)):
    q, k, v, do, dlse = inputs(shape, np.random.default_rng(seed), dtype)
    visible_BTS = visible_pairs(start_BES, end_BES, shape.length, offset)
    dlse = jnp.where(visible_BTS.any(-1)[..., None], dlse.astype(jnp.float32), 0)
    wanted = attend(q, k, v, visible_BTS, shape.scale, shape.soft_cap, (do, dlse))
    got = jitted(shape)(q, k, v, start_BES, end_BES, jnp.asarray(offset, jnp.int32), do, dlse)
    assert got[0].dtype == q.dtype
    assert got[1].dtype == jnp.float32
    for name, one, other, bound in zip(("o", "lse", "dq", "dk", "dv"), got, wanted, bounds[:1] * 2 + bounds[1:] * 3):
        one = np.asarray(one, np.float64)
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other), err_msg=name)
        finite = np.isfinite(other)
        largest = max(np.abs(other[finite]).max(initial=0), 1.0)
        assert np.abs(one[finite] - other[finite]).max(initial=0) <= bound * largest, name
    return got, visible_BTS


def tree_masks(shape: Shape, seed: int, **options):
    """Intervals of packed trees as long as the keys, and where each chunk of queries starts."""
    start_BES, end_BES, _ = packed_batch(seed, shape.batch, shape.keys, shape.levels, TreeShape(**options))
    offset_B = np.random.default_rng(seed).integers(0, shape.keys - shape.length + 1, shape.batch)
    return start_BES, end_BES, offset_B


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=pytest.mark.slow) if shape is SHAPES[3] else shape for shape in SHAPES], ids=str
)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(0, 4), paths=st.integers(1, 6), text=st.integers(1, 15))
def test_packed_trees(shape, seed, depth, paths, text):
    check(shape, *tree_masks(shape, seed, depth=depth, paths=paths, text=text), seed)


@pytest.mark.parametrize(
    "shape", [TPU_SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in TPU_SHAPES[1:])], ids=str
)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(0, 4), text=st.integers(1, 15))
def test_packed_trees_by_the_tpu_kernels(shape, seed, depth, text):
    check(shape, *tree_masks(shape, seed, depth=depth, text=text), seed)


@pytest.mark.parametrize("shape", [SHAPES[2], TPU_SHAPES[0]], ids=str)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_intervals_and_rows_that_see_nothing(shape, seed):
    rng = np.random.default_rng(seed)
    start_BES = rng.integers(-5, 80, (2, 6, 70)).astype(np.int32)
    end_BES = (start_BES + rng.integers(-4, 60, start_BES.shape)).astype(np.int32)
    end_BES[rng.random(end_BES.shape) < 0.1] = INT32_MAX
    start_BES[0, 0, :20], end_BES[0, 0, :20] = 0, 30
    got, visible_BTS = check(shape, start_BES, end_BES, np.array([0, rng.integers(0, 38)]), seed)
    empty_BT = ~visible_BTS.any(-1)
    assert empty_BT.any()
    for array, value in zip(got, (0, -np.inf, 0)):
        assert (np.asarray(array)[empty_BT] == value).all()


@pytest.mark.parametrize("kernel", ["xla", pytest.param("tpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(jnp.bfloat16, 2**-8), pytest.param(jnp.float16, 2**-11, marks=pytest.mark.slow)]
)
def test_16_bit_inputs_lose_only_the_rounding_of_the_results(dtype, bound, kernel):
    shape = {"xla": SHAPES[0], "tpu": TPU_SHAPES[1]}[kernel]
    check(shape, *tree_masks(shape, 3), 3, dtype, (bound, 3 * bound))


@pytest.mark.parametrize("kernel", ["xla", pytest.param("tpu", marks=pytest.mark.slow)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_chunks_from_any_row_in_any_order(kernel, seed):
    """Three chunks of 16 queries a sequence: they may overlap, and begin where the text has ended."""
    rng = np.random.default_rng(seed)
    shape = replace(SHAPES[0], kernel=kernel, length=48)
    start_BES, end_BES, _ = packed_batch(seed, 2, shape.keys, shape.levels)
    check(shape, start_BES, end_BES, rng.integers(0, shape.keys + 5, (2, 3)), seed)


def chunks(whole: Shape, seed: int):
    """Calls of 16 rows of a whole: (first row, call(k, v), k, v, visible, o, lse), the last two from the whole."""
    start_BES, end_BES, visible_BTT = packed_batch(seed, whole.batch, whole.length, whole.levels)
    q, k, v, do, dlse = inputs(whole, np.random.default_rng(seed))
    no_offset_B = jnp.zeros(whole.batch, jnp.int32)
    o, lse = jitted(whole)(q, k, v, start_BES, end_BES, no_offset_B, do, dlse)[:2]
    for offset in (0, 13, 29, whole.length - 16):
        rows = slice(offset, offset + 16)

        def call(k, v, rows=rows):
            run = jitted(replace(whole, length=16))
            return run(q[:, rows], k, v, start_BES, end_BES, no_offset_B + rows.start, do[:, rows], dlse[:, rows])

        yield offset, call, k, v, visible_BTT[:, rows], o[:, rows], lse[:, rows]


def test_chunks_of_queries_give_the_rows_of_the_whole():
    for _, call, k, v, _, o, lse in chunks(SHAPES[0], 5):
        part = call(k, v)
        np.testing.assert_allclose(part[0], o, atol=2e-6)
        np.testing.assert_allclose(part[1], lse, atol=2e-6)


@pytest.mark.parametrize("kernel", ["xla", pytest.param("tpu", marks=pytest.mark.slow)])
def test_chunks_of_one_call_are_calls_of_their_own(kernel):
    """Three chunks of 16 rows, in no order, as one call with three offsets."""
    whole = replace(SHAPES[0], kernel=kernel, length=48)
    offset_BC = np.array([[32, 0, 13], [45, 16, 0]], np.int32)
    start_BES, end_BES, _ = packed_batch(6, 2, whole.keys, whole.levels)
    q, k, v, do, dlse = inputs(whole, np.random.default_rng(6))
    got = jitted(whole)(q, k, v, start_BES, end_BES, offset_BC, do, dlse)
    sums = [0, 0]
    for chunk in range(3):
        rows = slice(16 * chunk, 16 * chunk + 16)
        part = jitted(replace(whole, length=16))(
            q[:, rows], k, v, start_BES, end_BES, offset_BC[:, chunk], do[:, rows], dlse[:, rows]
        )
        for one, other in zip(got[:3], part[:3]):
            np.testing.assert_allclose(one[:, rows], other, atol=2e-5)
        sums = [total + gradient for total, gradient in zip(sums, part[3:])]
    for one, other in zip(got[3:], sums):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("kernel", ["xla", pytest.param("tpu", marks=pytest.mark.slow)])
def test_tiles_without_a_visible_pair_are_never_read(kernel):
    """Keys and values of blocks that a tile of queries does not see are NaN: reading one would show, even masked."""
    skipped = 0
    for offset, call, k, v, visible_BTS, o, _ in chunks(replace(SHAPES[0], kernel=kernel), 11):
        seen_BS = np.repeat(tile_any(visible_BTS, 16, 8)[:, 0], 8, axis=1)[:, : k.shape[1]]
        skipped += (~seen_BS[:, :offset]).sum()
        poison = jnp.asarray(np.where(seen_BS, 0, np.nan), jnp.float32)[:, :, None, None]
        got = call(k + poison, v + poison)
        np.testing.assert_allclose(got[0], o, atol=2e-6)
        assert not np.isnan(got[2]).any()
        for gradient_BSKH in got[3:]:
            assert not np.isnan(gradient_BSKH).any()
            assert (np.asarray(gradient_BSKH)[~seen_BS] == 0).all()
    assert skipped


def test_the_oracle_s_gradients_are_those_of_its_forward_pass():
    shape = Shape(1, 12, 12, 4, 2, 4, 3, None, soft_cap=2.0)
    *_, visible_BTS = packed_batch(2, 1, 12, 3)
    rng = np.random.default_rng(2)
    arrays = [np.asarray(x, np.float64) for x in inputs(shape, rng)]
    do, dlse = arrays[3:]
    gradients = attend(*arrays[:3], visible_BTS, None, 2.0, (do, dlse))[2:]
    for which, gradient in enumerate(gradients):
        direction = rng.normal(size=arrays[which].shape)
        moved = []
        for step in (1e-5, -1e-5):
            there = [x + step * direction if i == which else x for i, x in enumerate(arrays[:3])]
            o, lse = attend(*there, visible_BTS, None, 2.0)
            moved.append((o * do).sum() + (lse * dlse).sum())
        np.testing.assert_allclose((moved[0] - moved[1]) / 2e-5, (gradient * direction).sum(), rtol=1e-6)


@functools.cache
def compiled(length: int):
    def loss(q, k, v, start, end):
        o, lse = mvjax_kernels.attention(q, k, v, start, end, return_lse=True)
        return o.sum() + lse.sum()

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    q, kv, hide = array(1, length, 2, 8), array(1, length, 1, 8), array(1, 3, length, dtype=jnp.int32)
    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, hide, hide).compile()


def test_no_buffer_of_the_compiled_program_is_quadratic():
    for length in (4096, 16384):
        sizes = [
            int(np.prod([int(size) for size in shape.split(",")]))
            for shape in re.findall(r"\b(?:f32|s32|u32|pred|bf16|s8|u8)\[([0-9,]+)\]", compiled(length).as_text())
        ]
        assert max(sizes) >= length * 2 * 8
        assert max(sizes) < length * length / 4


def test_memory_grows_linearly():
    peaks = [compiled(length).memory_analysis().temp_size_in_bytes for length in (4096, 8192, 16384)]
    assert peaks[1] <= 2.05 * peaks[0]
    assert peaks[2] <= 2.05 * peaks[1]
    assert peaks[2] < 16384 * 16384 / 4


def test_values_are_checked_on_request():
    shape = SHAPES[0]
    start_BES, end_BES, _ = tree_masks(shape, 1)
    q, k, v, *_ = inputs(shape, np.random.default_rng(0))
    call = functools.partial(mvjax_kernels.attention, backend="xla", check_values=True)
    checked = jax.jit(checkify.checkify(call))
    checked(q, k, v, start_BES, end_BES)[0].throw()
    for start, end, message in (
        (-1, 5, r"hide_start is negative at \[sequence, level, key\] 1, 2, 30: \[-1, 5\)"),
        (9, 7, r"hide_end lies before hide_start at .* 1, 2, 30: \[9, 7\)"),
        (62, 62, "hide_start lies behind the last row"),
        (3, 62, "hide_end lies behind the last row and is not INT32_MAX"),
    ):
        wrong = start_BES.copy(), end_BES.copy()
        for array, value in zip(wrong, (start, end)):
            array[1, 2, 30] = value
        with pytest.raises(checkify.JaxRuntimeError, match=message):
            checked(q, k, v, *wrong)[0].throw()


BAD = {
    "q needs 4 dimensions": {"q": jnp.zeros((1, 8, 16))},
    "K is 2": {"v": jnp.zeros((1, 8, 1, 16))},
    "H is 16": {"k": jnp.zeros((1, 8, 2, 8)), "v": jnp.zeros((1, 8, 2, 8))},
    "3 query heads are no multiple of 2": {"q": jnp.zeros((1, 8, 3, 16))},
    "S is 8": {"hide_start": jnp.zeros((1, 2, 9), jnp.int32)},
    "E is 2": {"hide_end": jnp.zeros((1, 3, 8), jnp.int32)},
    "hide_start must be int32, got float32": {"hide_start": jnp.zeros((1, 2, 8))},
    "one dtype, got q float32, k bfloat16": {"k": jnp.zeros((1, 8, 2, 16), jnp.bfloat16)},
    "q must be float32, bfloat16 or float16, got int32": {"q": jnp.zeros((1, 8, 4, 16), jnp.int32)},
    "empty dimension": {"q": jnp.zeros((1, 0, 4, 16))},
    "B is 1": {"q_offset": jnp.zeros(3, jnp.int32)},
    "q_offset must be int32": {"q_offset": jnp.zeros(1)},
    "'cudnn' does not exist; use one of 'auto', 'xla', 'tpu'": {"backend": "cudnn"},
    "backend='tpu' cannot serve this call: it serves heads of 64, 128, 256, not 16": {"backend": "tpu"},
    "8 queries do not split into 3 chunks": {"q_offset": jnp.zeros((1, 3), jnp.int32)},
    "soft_cap must be positive and finite, got -1": {"soft_cap": -1.0},
    "scale must be finite, got nan": {"scale": float("nan")},
}


@pytest.mark.usefixtures("arrays_of_any_type")
@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_value(message):
    arrays = {
        "q": jnp.zeros((1, 8, 4, 16)),
        "k": jnp.zeros((1, 8, 2, 16)),
        "v": jnp.zeros((1, 8, 2, 16)),
        "hide_start": jnp.zeros((1, 2, 8), jnp.int32),
        "hide_end": jnp.zeros((1, 2, 8), jnp.int32),
    }
    changed = {**arrays, **BAD[message]}
    options = {name: changed.pop(name) for name in list(changed) if name not in arrays}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        mvjax_kernels.attention(*changed.values(), **options)
