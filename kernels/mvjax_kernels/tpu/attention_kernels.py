"""Multiverse Attention in Pallas: the device code of the TPU back end, forward and backward.

A grid step is one tile of queries (forward and dq) or one block of keys (dk and dv). The blocks of the other side that
it visits come as runs in scalar memory; inside the step a loop follows them with copies of its own, two buffers deep,
and the last visit of a step already fetches the first block of the next. A tile that is not visited costs no grid step,
no copy and no instruction. Tiles in which everything is visible skip the mask and the copy of the intervals.

Rows of a tile are the query group times its positions, so a key block is read once for all heads that share it. Logits
lie rows first in forward and dq, keys first in dk and dv: what belongs to the side that stays (running maximum,
log-sum-exp, intervals) is a column that is made once per grid step, what belongs to the side that moves is a row, as it
is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mvjax_kernels.tpu import REGISTER_WIDTH
from mvjax_kernels.tpu.tile_walk import Lists, Shape, walk


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


def _column(row_1M):
    """A row as a column, repeated across a register."""
    return jnp.broadcast_to(row_1M, (REGISTER_WIDTH, row_1M.shape[1])).T


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


def forward_scratch(shape: Shape, dtype) -> list:
    """What `forward` works in, for keys of a type: the key side's buffers, weighted sum, maximum, total."""
    rows = [pltpu.VMEM((shape.height, width), jnp.float32) for width in (shape.head, REGISTER_WIDTH, REGISTER_WIDTH)]
    return [*_key_scratch(shape, dtype), *rows]


def forward(*refs, shape: Shape):
    """Outputs and log-sum-exp of a tile of queries; scratch as `forward_scratch`."""
    lists, (q_ref, k_hbm, v_hbm, hide_hbm, o_ref, lse_ref), scratch = _lists_of(refs), refs[2:8], refs[8:]
    moving, (acc_ref, m_ref, l_ref) = _Moving(*scratch[:5]), scratch[5:]
    q_MH = q_ref[0, 0].reshape(shape.height, shape.head)
    acc_ref[...] = jnp.zeros_like(acc_ref)
    m_ref[...] = jnp.full_like(m_ref, -jnp.inf)
    l_ref[...] = jnp.zeros_like(l_ref)

    def visit(k_XH, v_XH, hidden_MX):
        s_MX = _logits(shape, q_MH, k_XH)
        if hidden_MX is not None:
            s_MX = jnp.where(hidden_MX, -jnp.inf, s_MX)
        m_ML = m_ref[...]
        m_new_ML = jnp.maximum(m_ML, s_MX.max(1, keepdims=True))
        safe_ML = jnp.where(m_new_ML == -jnp.inf, 0.0, m_new_ML)
        p_MX = jnp.exp(s_MX - safe_ML[:, :1])
        shrink_ML = jnp.exp(m_ML - safe_ML)
        m_ref[...] = m_new_ML
        l_ref[...] = l_ref[...] * shrink_ML + p_MX.sum(1, keepdims=True)
        acc_ref[...] = acc_ref[...] * shrink_ML[:, :1] + _dot(shape, p_MX.astype(v_XH.dtype), v_XH, 1, 0)

    _over_keys(shape, lists, k_hbm, v_hbm, hide_hbm, moving, visit)
    l_ML = l_ref[...]
    some_ML = jnp.where(l_ML == 0, 1.0, l_ML)
    o_ref[0, 0] = (acc_ref[...] / some_ML[:, :1]).astype(o_ref.dtype).reshape(o_ref.shape[2:])
    lse_ref[0, 0, 0] = jnp.where(l_ML == 0, -jnp.inf, m_ref[...] + jnp.log(some_ML)).T[:1]


def dq_scratch(shape: Shape, dtype) -> list:
    """What `dq` works in, for keys of a type: the key side's buffers, and the sum."""
    return [*_key_scratch(shape, dtype), pltpu.VMEM((shape.height, shape.head), jnp.float32)]


def dq(*refs, shape: Shape):
    """Gradient of a tile of queries; scratch as `dq_scratch`."""
    lists, scratch = _lists_of(refs), refs[9:]
    q_ref, do_ref, stats_ref, k_hbm, v_hbm, hide_hbm, dq_ref = refs[2:9]
    moving, (acc_ref,) = _Moving(*scratch[:5]), scratch[5:]
    q_MH, do_MH = (ref[0, 0].reshape(shape.height, shape.head) for ref in (q_ref, do_ref))
    lse_M1, shift_M1 = (_column(stats_ref[0, 0, 0, i : i + 1])[:, :1] for i in range(2))
    acc_ref[...] = jnp.zeros_like(acc_ref)

    def visit(k_XH, v_XH, hidden_MX):
        s_MX = _logits(shape, q_MH, k_XH)
        p_MX = jnp.exp((s_MX if hidden_MX is None else jnp.where(hidden_MX, -jnp.inf, s_MX)) - lse_M1)
        ds_MX = p_MX * (_dot(shape, do_MH, v_XH, 1, 1) - shift_M1)
        if shape.soft_cap is not None:
            ds_MX *= 1.0 - jnp.square(s_MX / shape.soft_cap)
        acc_ref[...] += _dot(shape, ds_MX.astype(k_XH.dtype), k_XH, 1, 0)

    _over_keys(shape, lists, k_hbm, v_hbm, hide_hbm, moving, visit)
    dq_ref[0, 0] = (acc_ref[...] * shape.scale).astype(dq_ref.dtype).reshape(dq_ref.shape[2:])


def dkv_scratch(shape: Shape, dtype) -> list:
    """What `dkv` works in, for queries of a type: the query side's buffers, two sums, the intervals as columns."""
    moving = pltpu.VMEM((2, shape.group, shape.rows, shape.head), dtype)
    return [
        moving,
        moving,
        pltpu.VMEM((2, 2, shape.height), jnp.float32),
        pltpu.SemaphoreType.DMA((2, 3)),
        pltpu.SMEM((1,), jnp.int32),
        pltpu.VMEM((shape.block, shape.head), jnp.float32),
        pltpu.VMEM((shape.block, shape.head), jnp.float32),
        pltpu.VMEM((2 * shape.levels, shape.block, REGISTER_WIDTH), jnp.int32),
    ]


def dkv(*refs, shape: Shape):
    """Gradients of a block of keys and its values; scratch as `dkv_scratch`."""
    lists, scratch = _lists_of(refs), refs[10:]
    k_ref, v_ref, hide_ref, q_hbm, do_hbm, stats_hbm, dk_ref, dv_ref = refs[2:10]
    q_buf, do_buf, stats_buf, semaphores, slot_ref, dk_acc, dv_acc, hide_XL = scratch
    sequence, head, block = (pl.program_id(axis) for axis in range(3))
    k_XH, v_XH = k_ref[0, 0], v_ref[0, 0]
    key_X1 = block * shape.block + lax.broadcasted_iota(jnp.int32, (shape.block, 1), 0)
    for level in range(2 * shape.levels):
        hide_XL[level] = _column(hide_ref[0, level : level + 1])
    dk_acc[...] = jnp.zeros_like(dk_acc)
    dv_acc[...] = jnp.zeros_like(dv_acc)

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
        dv_acc[...] += _dot(shape, p_XM.astype(do_MH.dtype), do_MH, 1, 0)
        dk_acc[...] += _dot(shape, ds_XM.astype(q_MH.dtype), q_MH, 1, 0)

    def visited(tile, full, slot):
        pl.when(full)(lambda: visit(tile, slot, masked=False))
        pl.when(~full)(lambda: visit(tile, slot, masked=True))

    walk(shape, lists, block, shape.key_blocks, slot_ref, copies, visited)
    dk_ref[0, 0] = (dk_acc[...] * shape.scale).astype(dk_ref.dtype)
    dv_ref[0, 0] = dv_acc[...].astype(dv_ref.dtype)
