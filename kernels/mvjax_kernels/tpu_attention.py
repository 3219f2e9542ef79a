"""Multiverse Attention for TPUs: Pallas kernels, forward and backward, that walk only tiles with a visible pair.

A grid step is one tile of queries (forward and dq) or one block of keys (dk and dv). The blocks of the other side that
it visits come as runs in scalar memory; inside the step a loop follows them with copies of its own, two buffers deep,
and the last visit of a step already fetches the first block of the next. A tile that is not visited costs no grid step,
no copy and no instruction. Tiles in which everything is visible skip the mask and the copy of the intervals.

Rows of a tile are the query group times its positions, so a key block is read once for all heads that share it. Logits
lie rows first in forward and dq, keys first in dk and dv: whatever belongs to the side that stays (running maximum,
log-sum-exp, intervals) is a column that is made once per grid step, what belongs to the side that moves is a row, as it
is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of
from mvjax_kernels.residuals import named
from mvjax_kernels.tiles import INT32_MAX, run_lists, tile_rows
from mvjax_kernels.tpu_walk import Lists, Shape, lines_of, walk

LANES = 128


def _dot(shape: Shape, a, b, a_axis: int, b_axis: int):
    dimensions = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=shape.precision, preferred_element_type=jnp.float32)


def _logits(shape: Shape, a, b):
    logits = _dot(shape, a, b, 1, 1) * shape.scale
    return logits if shape.soft_cap is None else shape.soft_cap * jnp.tanh(logits / shape.soft_cap)


def _hidden(levels: int, row, key, start: Callable, end: Callable):
    """Which pairs are not visible; `row` and `key` are a column and a row, or the other way round."""
    hidden = row < key
    for level in range(levels):
        hidden |= (row >= start(level)) & (row < end(level))
    return hidden


def _lists_of(refs) -> Lists:
    """The first references of every kernel: rows of tiles, then the runs of the grid step's line."""
    return Lists(refs[1], refs[0])


def _rows(shape: Shape, first, axis: int):
    """Global rows of a tile along an axis: its positions, once per head of the group."""
    size = (shape.height, 1) if axis == 0 else (1, shape.height)
    return first + lax.rem(lax.broadcasted_iota(jnp.int32, size, axis), shape.rows)


def _column(row_1M, width: int = LANES):
    """A row as a column that is repeated in all lanes."""
    return jnp.broadcast_to(row_1M, (width, row_1M.shape[1])).T


class _Moving(NamedTuple):
    """Buffers of the key side: two of each, and what their copies signal."""

    k: jax.Array
    v: jax.Array
    hide: jax.Array
    semaphores: jax.Array
    slot: jax.Array


def _key_scratch(shape: Shape, dtype) -> list:
    return [
        pltpu.VMEM((2, shape.block, shape.head), dtype),
        pltpu.VMEM((2, shape.block, shape.head), dtype),
        pltpu.VMEM((2, 2 * shape.levels, shape.block), jnp.int32),
        pltpu.SemaphoreType.DMA((2, 3)),
        pltpu.SMEM((1,), jnp.int32),
    ]


def _over_keys(shape: Shape, lists: Lists, k_hbm, v_hbm, hide_hbm, moving: _Moving, visit: Callable) -> None:
    """Walks the key blocks of this grid step's query tile: `visit(k, v, hidden or None)`."""
    sequence, head, tile = (pl.program_id(axis) for axis in range(3))

    def copies(block, full, slot):
        keys = pl.ds(block * shape.block, shape.block)
        pairs = (
            (k_hbm.at[sequence, head, keys], moving.k, True),
            (v_hbm.at[sequence, head, keys], moving.v, True),
            (hide_hbm.at[sequence, :, keys], moving.hide, ~full),
        )
        return [
            (pltpu.make_async_copy(source, buffer.at[slot], moving.semaphores.at[slot, i]), needed)
            for i, (source, buffer, needed) in enumerate(pairs)
        ]

    def visited(block, full, slot):
        k, v = moving.k[slot], moving.v[slot]
        pl.when(full)(lambda: visit(k, v, None))

        @pl.when(~full)
        def _():
            row_M1 = _rows(shape, lists.first[sequence * shape.query_tiles + tile], 0)
            key_1X = block * shape.block + lax.broadcasted_iota(jnp.int32, (1, shape.block), 1)
            hide = moving.hide[slot]
            start, end = (lambda e: hide[e : e + 1]), (lambda e: hide[shape.levels + e : shape.levels + e + 1])
            visit(k, v, _hidden(shape.levels, row_M1, key_1X, start, end))

    walk(shape, lists, tile, shape.query_tiles, moving.slot, copies, visited)


def _forward_kernel(*refs, shape: Shape):
    lists, (q_ref, k_hbm, v_hbm, hide_hbm, o_ref, lse_ref), scratch = _lists_of(refs), refs[2:8], refs[8:]
    moving, (sum_ref, top_ref, total_ref) = _Moving(*scratch[:5]), scratch[5:]
    q_MH = q_ref[0, 0].reshape(shape.height, shape.head)
    sum_ref[...] = jnp.zeros_like(sum_ref)
    top_ref[...] = jnp.full_like(top_ref, -jnp.inf)
    total_ref[...] = jnp.zeros_like(total_ref)

    def visit(k_XH, v_XH, hidden_MX):
        s_MX = _logits(shape, q_MH, k_XH)
        if hidden_MX is not None:
            s_MX = jnp.where(hidden_MX, -jnp.inf, s_MX)
        top_ML = top_ref[...]
        new_ML = jnp.maximum(top_ML, s_MX.max(1, keepdims=True))
        safe_ML = jnp.where(new_ML == -jnp.inf, 0.0, new_ML)
        p_MX = jnp.exp(s_MX - safe_ML[:, :1])
        shrink_ML = jnp.exp(top_ML - safe_ML)
        top_ref[...] = new_ML
        total_ref[...] = total_ref[...] * shrink_ML + p_MX.sum(1, keepdims=True)
        sum_ref[...] = sum_ref[...] * shrink_ML[:, :1] + _dot(shape, p_MX.astype(v_XH.dtype), v_XH, 1, 0)

    _over_keys(shape, lists, k_hbm, v_hbm, hide_hbm, moving, visit)
    total_ML = total_ref[...]
    some_ML = jnp.where(total_ML == 0, 1.0, total_ML)
    o_ref[0, 0] = (sum_ref[...] / some_ML[:, :1]).astype(o_ref.dtype).reshape(o_ref.shape[2:])
    lse_ref[0, 0, 0] = jnp.where(total_ML == 0, -jnp.inf, top_ref[...] + jnp.log(some_ML)).T[:1]


def _dq_kernel(*refs, shape: Shape):
    lists, scratch = _lists_of(refs), refs[9:]
    q_ref, do_ref, stats_ref, k_hbm, v_hbm, hide_hbm, dq_ref = refs[2:9]
    moving, (sum_ref,) = _Moving(*scratch[:5]), scratch[5:]
    q_MH, do_MH = (ref[0, 0].reshape(shape.height, shape.head) for ref in (q_ref, do_ref))
    lse_M1, shift_M1 = (_column(stats_ref[0, 0, 0, i : i + 1])[:, :1] for i in range(2))
    sum_ref[...] = jnp.zeros_like(sum_ref)

    def visit(k_XH, v_XH, hidden_MX):
        s_MX = _logits(shape, q_MH, k_XH)
        p_MX = jnp.exp((s_MX if hidden_MX is None else jnp.where(hidden_MX, -jnp.inf, s_MX)) - lse_M1)
        ds_MX = p_MX * (_dot(shape, do_MH, v_XH, 1, 1) - shift_M1)
        if shape.soft_cap is not None:
            ds_MX *= 1.0 - jnp.square(s_MX / shape.soft_cap)
        sum_ref[...] += _dot(shape, ds_MX.astype(k_XH.dtype), k_XH, 1, 0)

    _over_keys(shape, lists, k_hbm, v_hbm, hide_hbm, moving, visit)
    dq_ref[0, 0] = (sum_ref[...] * shape.scale).astype(dq_ref.dtype).reshape(dq_ref.shape[2:])


def _dkv_kernel(*refs, shape: Shape):
    lists, scratch = _lists_of(refs), refs[10:]
    k_ref, v_ref, hide_ref, q_hbm, do_hbm, stats_hbm, dk_ref, dv_ref = refs[2:10]
    q_buf, do_buf, stats_buf, semaphores, slot_ref, dk_sum, dv_sum, hide_XL = scratch
    sequence, head, block = (pl.program_id(axis) for axis in range(3))
    k_XH, v_XH = k_ref[0, 0], v_ref[0, 0]
    key_X1 = block * shape.block + lax.broadcasted_iota(jnp.int32, (shape.block, 1), 0)
    for level in range(2 * shape.levels):
        hide_XL[level] = _column(hide_ref[0, level : level + 1])
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

    def copies(tile, _, slot):
        rows = pl.ds(tile * shape.rows, shape.rows)
        pairs = (
            (q_hbm.at[sequence, head, :, rows], q_buf),
            (do_hbm.at[sequence, head, :, rows], do_buf),
            (stats_hbm.at[sequence, head, tile], stats_buf),
        )
        return [
            (pltpu.make_async_copy(source, buffer.at[slot], semaphores.at[slot, i]), True)
            for i, (source, buffer) in enumerate(pairs)
        ]

    def visit(tile, slot, masked: bool):
        q_MH, do_MH = (buffer[slot].reshape(shape.height, shape.head) for buffer in (q_buf, do_buf))
        lse_1M, shift_1M = stats_buf[slot, 0:1], stats_buf[slot, 1:2]
        s_XM = shown_XM = _logits(shape, k_XH, q_MH)
        if masked:
            row_1M = _rows(shape, lists.first[sequence * shape.query_tiles + tile], 1)
            start, end = (lambda e: hide_XL[e][:, :1]), (lambda e: hide_XL[shape.levels + e][:, :1])
            shown_XM = jnp.where(_hidden(shape.levels, row_1M, key_X1, start, end), -jnp.inf, s_XM)
        p_XM = jnp.exp(shown_XM - lse_1M)
        ds_XM = p_XM * (_dot(shape, v_XH, do_MH, 1, 1) - shift_1M)
        if shape.soft_cap is not None:
            ds_XM *= 1.0 - jnp.square(s_XM / shape.soft_cap)
        dv_sum[...] += _dot(shape, p_XM.astype(do_MH.dtype), do_MH, 1, 0)
        dk_sum[...] += _dot(shape, ds_XM.astype(q_MH.dtype), q_MH, 1, 0)

    def visited(tile, full, slot):
        pl.when(full)(lambda: visit(tile, slot, masked=False))
        pl.when(~full)(lambda: visit(tile, slot, masked=True))

    walk(shape, lists, block, shape.key_blocks, slot_ref, copies, visited)
    dk_ref[0, 0] = (dk_sum[...] * shape.scale).astype(dk_ref.dtype)
    dv_ref[0, 0] = dv_sum[...].astype(dv_ref.dtype)


def _call(
    kernel, shape: Shape, lines: int, lists: Lists, in_specs, out_specs, outs, scratch, products, args, interpret
):
    """One kernel over (sequence, kv head, line of tiles); `products` matrix products a tile."""
    causal = shape.batch * shape.kv_heads * shape.group * shape.length * shape.keys // 2
    moved = sum(x.size * x.dtype.itemsize for x in (*args, *outs))
    line = pl.BlockSpec((1, 1, 1, lists.line.shape[3]), lambda b, k, i, *_: (b, i, 0, 0), memory_space=pltpu.SMEM)
    return pl.pallas_call(
        partial(kernel, shape=shape),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(shape.batch, shape.kv_heads, lines),
            in_specs=[line, *in_specs],
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=outs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        # Of a causal document that fills the row: how much of it is visited is only known on the device.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * causal * shape.head, transcendentals=causal, bytes_accessed=moved
        ),
        interpret=interpret,
    )(lists.first, lists.line, *args)


def _specs(shape: Shape):
    """Blocks of a grid step: a tile of queries, statistics of its rows, a block of keys, its intervals."""
    tile = pl.BlockSpec((1, 1, shape.group, shape.rows, shape.head), lambda b, k, i, *_: (b, k, 0, i, 0))

    def stats(count):
        return pl.BlockSpec((1, 1, 1, count, shape.height), lambda b, k, i, *_: (b, k, i, 0, 0))

    keys = pl.BlockSpec((1, 1, shape.block, shape.head), lambda b, k, i, *_: (b, k, i, 0))
    hide = pl.BlockSpec((1, 2 * shape.levels, shape.block), lambda b, k, i, *_: (b, 0, i))
    return tile, stats, keys, hide


HBM = pl.BlockSpec(memory_space=pl.ANY)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9, 10))
def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_BC: Int[Array, "B C"],
    scale: float,
    soft_cap: float | None,
    rows: int,
    block: int,
    interpret: bool,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """See `mvjax_kernels.attention`; the arguments are checked there. Tiles are `rows` x `block`."""
    args = (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC)
    return _forward(*args, scale, soft_cap, rows, block, interpret)[0]


def _shape_of(q_BTNH, k_BSKH, hide_start_BES, scale, soft_cap, rows, block) -> Shape:
    (batch, length, heads, head), (_, keys, kv_heads, _) = q_BTNH.shape, k_BSKH.shape
    return Shape(
        batch,
        kv_heads,
        heads // kv_heads,
        -(-length // rows) * rows,
        -(-keys // block) * block,
        head,
        hide_start_BES.shape[1],
        rows,
        block,
        scale,
        soft_cap,
        precision_of(q_BTNH.dtype),
    )


def _by_heads(shape: Shape, x_BTNH: Array) -> Array:
    """[B, K, G, T, H], T padded."""
    x = jnp.pad(x_BTNH, ((0, 0), (0, shape.length - x_BTNH.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)
    return x.reshape(shape.batch, shape.kv_heads, shape.group, shape.length, shape.head)


def _from_heads(x_BKGTH: Array, length: int) -> Array:
    """Inverse of `_by_heads`."""
    B, K, G, T, H = x_BKGTH.shape
    return x_BKGTH.reshape(B, K * G, T, H).swapaxes(1, 2)[:, :length]


def _stats_by_tiles(shape: Shape, x_BTN: Array) -> Array:
    """[B, K, tiles, M], T padded with 0: M as in the tiles' products."""
    x = jnp.pad(x_BTN, ((0, 0), (0, shape.length - x_BTN.shape[1]), (0, 0)))
    x = x.reshape(shape.batch, shape.query_tiles, shape.rows, shape.kv_heads, shape.group)
    return x.transpose(0, 3, 1, 4, 2).reshape(shape.batch, shape.kv_heads, shape.query_tiles, shape.height)


def _stats_from_tiles(shape: Shape, x_BKQM: Array, length: int) -> Array:
    """Inverse of `_stats_by_tiles`."""
    x = x_BKQM.reshape(shape.batch, shape.kv_heads, shape.query_tiles, shape.group, shape.rows)
    return x.transpose(0, 2, 4, 1, 3).reshape(shape.batch, shape.length, -1)[:, :length]


def _key_side(shape: Shape, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES):
    """Keys and values [B, K, S, H] and the intervals, starts then ends, [B, 2E, S]; keys behind S hidden from all."""
    pad = shape.keys - k_BSKH.shape[1]
    k_BKSH, v_BKSH = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2) for x in (k_BSKH, v_BSKH))
    tail = (0, 0), (0, 0), (0, pad)
    hide_start_BES, hide_end_BES = jnp.pad(hide_start_BES, tail), jnp.pad(hide_end_BES, tail, constant_values=INT32_MAX)
    return k_BKSH, v_BKSH, jnp.concatenate([hide_start_BES, hide_end_BES], 1)


def _lists(shape: Shape, hide_BFS, q_offset_BC, length: int) -> list[Lists]:
    """By tiles of queries, and by blocks of keys."""
    both = run_lists(*jnp.split(hide_BFS, 2, axis=1), q_offset_BC, length, shape.rows, shape.block)
    first_BQ, _ = tile_rows(q_offset_BC, length, shape.rows)
    return [Lists(lines_of(runs, shape.levels), first_BQ.reshape(-1)) for runs in both]


def _forward(
    q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, scale, soft_cap, rows, block, interpret
):
    shape = _shape_of(q_BTNH, k_BSKH, hide_start_BES, scale, soft_cap, rows, block)
    length = q_BTNH.shape[1]
    k_BKSH, v_BKSH, hide_BFS = _key_side(shape, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES)
    by_rows, _ = _lists(shape, hide_BFS, q_offset_BC, length)
    tile, stats, _, _ = _specs(shape)
    q = _by_heads(shape, q_BTNH)
    o, lse = _call(
        _forward_kernel,
        shape,
        shape.query_tiles,
        by_rows,
        [tile, HBM, HBM, HBM],
        [tile, stats(1)],
        [
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((*q.shape[:2], shape.query_tiles, 1, shape.height), jnp.float32),
        ],
        [
            *_key_scratch(shape, k_BSKH.dtype),
            pltpu.VMEM((shape.height, shape.head), jnp.float32),
            pltpu.VMEM((shape.height, LANES), jnp.float32),
            pltpu.VMEM((shape.height, LANES), jnp.float32),
        ],
        2,
        (q, k_BKSH, v_BKSH, hide_BFS),
        interpret,
    )
    o_BTNH, lse_BTN = _from_heads(o, length), _stats_from_tiles(shape, lse[:, :, :, 0], length)
    o_BTNH, lse_BTN = named(o_BTNH), named(lse_BTN)
    saved = (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN)
    return (o_BTNH, lse_BTN), saved


def _backward(scale, soft_cap, rows, block, interpret, saved, gradients):
    q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN = saved
    do_BTNH, dlse_BTN = gradients
    shape = _shape_of(q_BTNH, k_BSKH, hide_start_BES, scale, soft_cap, rows, block)
    length = q_BTNH.shape[1]
    k_BKSH, v_BKSH, hide_BFS = _key_side(shape, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES)
    by_rows, by_keys = _lists(shape, hide_BFS, q_offset_BC, length)
    # d logit = p * (dp - sum(do * o) + dlse); rows that see no key have no pair, whatever their numbers.
    shift_BTN = (do_BTNH.astype(jnp.float32) * o_BTNH.astype(jnp.float32)).sum(-1) - dlse_BTN
    columns = (jnp.where(lse_BTN == -jnp.inf, 0.0, lse_BTN), shift_BTN)
    stats_BKQ2M = jnp.stack([_stats_by_tiles(shape, x) for x in columns], 3)
    q, do = _by_heads(shape, q_BTNH), _by_heads(shape, do_BTNH)
    tile, stats, keys, hide = _specs(shape)
    (dq,) = _call(
        _dq_kernel,
        shape,
        shape.query_tiles,
        by_rows,
        [tile, tile, stats(2), HBM, HBM, HBM],
        [tile],
        [jax.ShapeDtypeStruct(q.shape, q.dtype)],
        [*_key_scratch(shape, k_BSKH.dtype), pltpu.VMEM((shape.height, shape.head), jnp.float32)],
        3,
        (q, do, stats_BKQ2M, k_BKSH, v_BKSH, hide_BFS),
        interpret,
    )
    moving = pltpu.VMEM((2, shape.group, shape.rows, shape.head), q.dtype)
    dk_BKSH, dv_BKSH = _call(
        _dkv_kernel,
        shape,
        shape.key_blocks,
        by_keys,
        [keys, keys, hide, HBM, HBM, HBM],
        [keys, keys],
        [jax.ShapeDtypeStruct(k_BKSH.shape, k_BSKH.dtype)] * 2,
        [
            moving,
            moving,
            pltpu.VMEM((2, 2, shape.height), jnp.float32),
            pltpu.SemaphoreType.DMA((2, 3)),
            pltpu.SMEM((1,), jnp.int32),
            pltpu.VMEM((shape.block, shape.head), jnp.float32),
            pltpu.VMEM((shape.block, shape.head), jnp.float32),
            pltpu.VMEM((2 * shape.levels, shape.block, LANES), jnp.int32),
        ],
        4,
        (k_BKSH, v_BKSH, hide_BFS, q, do, stats_BKQ2M),
        interpret,
    )
    dk_BSKH, dv_BSKH = (x.swapaxes(1, 2)[:, : k_BSKH.shape[1]] for x in (dk_BKSH, dv_BKSH))
    return _from_heads(dq, length), dk_BSKH, dv_BSKH, None, None, None


attention.defvjp(_forward, _backward)
