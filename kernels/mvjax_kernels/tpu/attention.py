"""Multiverse Attention for TPUs: Pallas kernels, forward and backward, that walk only tiles with a visible pair.

The device code is in `attention_kernels`; here are the layouts that it wants, and the derivative.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of
from mvjax_kernels.residuals import named
from mvjax_kernels.tiles import INT32_MAX, run_lists, tile_rows
from mvjax_kernels.tpu import attention_kernels
from mvjax_kernels.tpu.tile_walk import Lists, Shape, lines_of


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
    hide_start_BES, hide_end_BES = jnp.split(hide_BFS, 2, axis=1)
    both = run_lists(hide_start_BES, hide_end_BES, q_offset_BC, length, shape.rows, shape.block)
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
        attention_kernels.forward,
        shape,
        shape.query_tiles,
        by_rows,
        [tile, HBM, HBM, HBM],
        [tile, stats(1)],
        [
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((*q.shape[:2], shape.query_tiles, 1, shape.height), jnp.float32),
        ],
        attention_kernels.forward_scratch(shape, k_BSKH.dtype),
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
        attention_kernels.dq,
        shape,
        shape.query_tiles,
        by_rows,
        [tile, tile, stats(2), HBM, HBM, HBM],
        [tile],
        [jax.ShapeDtypeStruct(q.shape, q.dtype)],
        attention_kernels.dq_scratch(shape, k_BSKH.dtype),
        3,
        (q, do, stats_BKQ2M, k_BKSH, v_BKSH, hide_BFS),
        interpret,
    )
    dk_BKSH, dv_BKSH = _call(
        attention_kernels.dkv,
        shape,
        shape.key_blocks,
        by_keys,
        [keys, keys, hide, HBM, HBM, HBM],
        [keys, keys],
        [jax.ShapeDtypeStruct(k_BKSH.shape, k_BSKH.dtype)] * 2,
        attention_kernels.dkv_scratch(shape, q.dtype),
        4,
        (k_BKSH, v_BKSH, hide_BFS, q, do, stats_BKQ2M),
        interpret,
    )
    dk_BSKH, dv_BSKH = (x.swapaxes(1, 2)[:, : k_BSKH.shape[1]] for x in (dk_BKSH, dv_BKSH))
    return _from_heads(dq, length), dk_BSKH, dv_BSKH, None, None, None


attention.defvjp(_forward, _backward)
