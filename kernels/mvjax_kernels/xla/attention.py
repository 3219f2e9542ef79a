"""Multiverse Attention in plain XLA: blockwise with a running softmax, forward and backward.

One loop over tiles of query rows, inside it one over the key blocks that they see (a trip count known only on the
device). Tiles lie keys first, [key, row]: a row's maximum and sum broadcast along the fast dimension, and every product
of the forward pass has its operands in the order in which they are stored. The rows of a tile are its positions times
the query group, so each key block is read once for all query heads that share it.

The backward pass walks the same tiles in the same order: dq is summed per tile of queries, dk and dv in place in whole
arrays (float32). Five products a tile; the logits are computed again from the log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of
from mvjax_kernels.residuals import named
from mvjax_kernels.tiles import INT32_MAX, tile_rows, visible_tiles

TILES = ((4, 128, 128), (8, 64, 256), (2**31, 32, 256))
"""(largest query group G, query positions, keys) of a tile on CPU.

The logits of a tile, K x keys x (G x positions) in float32, should stay near a core, yet each product should take long
enough (50 us) to be worth starting. At SmolLM2's heads (K = 3, G = 3, H = 64), processor time forward and backward
relative to 128 x 256: 128 x 128 0.89 for a text of 512 tokens, 0.97 to 1.03 for one of 1,024 to 4,096, 0.77 to 0.83
for rows packed with texts of 200 to 500; 256 x 128 0.88 to 1.05; 64 x 128 1.2.
"""
_ZERO = np.int32(0)  # Where JAX's 64-bit types are on, a plain 0 would be an index of another type than the rest.


def tile_shape(group: int, length: int, keys: int, chunks: int = 1) -> tuple[int, int]:
    """Query positions and keys per tile: G query heads a kv head, T = `length` queries in chunks, S = `keys` keys."""
    most_rows, most_keys = next((r, k) for largest, r, k in TILES if group <= largest)
    most_keys = min(most_keys, -(-keys // 8) * 8)
    if chunks > 1:
        return math.gcd(most_rows, length // chunks), most_keys
    return min(most_rows, -(-length // 8) * 8), most_keys


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9))
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
    keys: int,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """See `mvjax_kernels.attention`; the arguments are checked there. Tiles are `rows` x `keys`."""
    return _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, scale, soft_cap, rows, keys)[0]


class _Plan(NamedTuple):
    """What the tiles of queries visit, the same in both directions; P = B x (query tiles a sequence) in order.

    Made once, outside the loops: layers that share the intervals share it. One number a tile, T * S / (rows * keys).
    """

    sequence_P: Int[Array, " P"]
    first_row_P: Int[Array, " P"]
    full_P: Int[Array, " P"]
    """Key blocks of which every row of the tile sees every key."""

    count_P: Int[Array, " P"]
    """Key blocks to visit in all."""

    visits_PC: Int[Array, "P C"]
    """The key blocks to visit: the `full` ones, then the others."""


def _plan(hide_start_BES, hide_end_BES, q_offset_BC, length: int, rows: int, keys: int) -> _Plan:
    visible_BQC, full_BQC = visible_tiles(
        hide_start_BES, hide_end_BES, length, block_q=rows, block_k=keys, q_offset_BC=q_offset_BC
    )
    B, Q, C = visible_BQC.shape
    order_BQC = jnp.where(full_BQC, 0, jnp.where(visible_BQC, C, 2 * C)) + jnp.arange(C, dtype=jnp.int32)
    first_row_BQ, _ = tile_rows(q_offset_BC, length, rows)
    return _Plan(
        jnp.repeat(jnp.arange(B, dtype=jnp.int32), Q),
        first_row_BQ.reshape(-1),
        full_BQC.sum(-1, dtype=jnp.int32).reshape(-1),
        visible_BQC.sum(-1, dtype=jnp.int32).reshape(-1),
        jnp.sort(order_BQC).reshape(-1, C) % C,
    )


def _walk(tile: _Plan, visit: Callable, carry):
    """`visit(block, carry, masked)` over the key blocks of one tile of queries (one row of the plan).

    Two loops, since in one a tile without mask arithmetic would have to copy its logits past the mask.
    """
    for start, end, masked in ((0, tile.full_P, False), (tile.full_P, tile.count_P, True)):
        carry = lax.fori_loop(start, end, lambda i, c, masked=masked: visit(tile.visits_PC[i], c, masked), carry)
    return carry


class _Mask(NamedTuple):
    """The intervals, key blocks in full."""

    hide_start_BSE: Int[Array, "B S E"]
    hide_end_BSE: Int[Array, "B S E"]

    def __call__(self, s_KXM: Array, sequence: Array, row_M: Array, block: Array) -> Array:
        """The logits of a tile, -inf where the row does not see the key."""
        X, E = s_KXM.shape[1], self.hide_start_BSE.shape[2]
        key = block * X
        start_XE = lax.dynamic_slice(self.hide_start_BSE, (sequence, key, _ZERO), (1, X, E))[0]
        end_XE = lax.dynamic_slice(self.hide_end_BSE, (sequence, key, _ZERO), (1, X, E))[0]
        hidden_XM = row_M < (key + jnp.arange(X, dtype=jnp.int32))[:, None]
        for e in range(E):
            hidden_XM |= (row_M >= start_XE[:, e, None]) & (row_M < end_XE[:, e, None])
        return jnp.where(hidden_XM, -jnp.inf, s_KXM)


def _mask(hide_start_BES, hide_end_BES, keys: int) -> _Mask:
    # Keys that only fill the last block are hidden from every row.
    pad = ((0, 0), (0, 0), (0, -hide_start_BES.shape[2] % keys))
    hide_end_BES = jnp.pad(hide_end_BES, pad, constant_values=INT32_MAX)
    return _Mask(jnp.pad(hide_start_BES, pad).swapaxes(1, 2), hide_end_BES.swapaxes(1, 2))


def query_tiles(x_BTNH: Array, kv_heads: int, rows: int) -> Array:
    """[P, K, G * rows, H], rows beyond T zero."""
    B, T, N, H = x_BTNH.shape
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, -T % rows), (0, 0), (0, 0)))
    x = x_BTNH.reshape(B, -1, rows, kv_heads, N // kv_heads, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(-1, kv_heads, N // kv_heads * rows, H)


def from_query_tiles(x_PKMH: Array, rows: int, batch: int, length: int) -> Array:
    """[B, T, N, H]: the inverse of `query_tiles`."""
    K, H = x_PKMH.shape[1], x_PKMH.shape[3]
    x = x_PKMH.reshape(batch, -1, K, x_PKMH.shape[2] // rows, rows, H).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(batch, -1, x.shape[3] * x.shape[4], H)[:, :length]


def _keys_inside(x_BSKH: Array, keys: int) -> Array:
    """[B, K, S, H], keys beyond S zero."""
    return jnp.pad(x_BSKH, ((0, 0), (0, -x_BSKH.shape[1] % keys), (0, 0), (0, 0))).swapaxes(1, 2)


def tile_positions(first_row: Array, rows: int, count: int) -> Array:
    """Global row of each column of a tile: the positions, once per head of the group."""
    return first_row + jnp.arange(count, dtype=jnp.int32) % rows


def _zeros(*shape: int) -> Array:
    return jnp.zeros(shape, jnp.float32)


def capped(logits: Array, soft_cap: float | None) -> Array:
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, scale, soft_cap, rows, keys):
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    M = N // K * rows
    dot = partial(jnp.einsum, precision=precision_of(q_BTNH.dtype), preferred_element_type=jnp.float32)
    plan = _plan(hide_start_BES, hide_end_BES, q_offset_BC, T, rows, keys)
    mask = _mask(hide_start_BES, hide_end_BES, keys)
    k_BKSH, v_BKHS = _keys_inside(k_BSKH, keys), _keys_inside(v_BSKH, keys).swapaxes(2, 3)

    def query_tile(_, tile):
        visits, q_KMH = tile
        sequence = visits.sequence_P
        q_KHM = q_KMH.astype(jnp.float32).swapaxes(1, 2) * scale
        row_M = tile_positions(visits.first_row_P, rows, M)

        def key_block(block, carry, masked):
            o_KHM, m_KM, l_KM = carry
            key = block * keys
            k_KXH = lax.dynamic_slice(k_BKSH, (sequence, _ZERO, key, _ZERO), (1, K, keys, H))[0].astype(jnp.float32)
            v_KHX = lax.dynamic_slice(v_BKHS, (sequence, _ZERO, _ZERO, key), (1, K, H, keys))[0].astype(jnp.float32)
            s_KXM = capped(dot("kxh,khm->kxm", k_KXH, q_KHM), soft_cap)
            s_KXM = mask(s_KXM, sequence, row_M, block) if masked else s_KXM
            m_new_KM = jnp.maximum(m_KM, s_KXM.max(1))
            safe_KM = jnp.where(m_new_KM == -jnp.inf, 0.0, m_new_KM)
            p_KXM = jnp.exp(s_KXM - safe_KM[:, None])
            shrink_KM = jnp.exp(m_KM - safe_KM)
            o_KHM = o_KHM * shrink_KM[:, None] + dot("khx,kxm->khm", v_KHX, p_KXM)
            return o_KHM, m_new_KM, l_KM * shrink_KM + p_KXM.sum(1)

        start = (_zeros(K, H, M), jnp.full((K, M), -jnp.inf, jnp.float32), _zeros(K, M))
        o_KHM, m_KM, l_KM = _walk(visits, key_block, start)
        empty_KM = l_KM == 0
        some_KM = jnp.where(empty_KM, 1.0, l_KM)
        lse_KM = jnp.where(empty_KM, -jnp.inf, m_KM + jnp.log(some_KM))
        return None, ((o_KHM / some_KM[:, None]).swapaxes(1, 2).astype(q_BTNH.dtype), lse_KM)

    _, (o_PKMH, lse_PKM) = lax.scan(query_tile, None, (plan, query_tiles(q_BTNH, K, rows)))
    o_BTNH = from_query_tiles(o_PKMH, rows, B, T)
    lse_BTN = from_query_tiles(lse_PKM[..., None], rows, B, T)[..., 0]
    o_BTNH, lse_BTN = named(o_BTNH), named(lse_BTN)
    saved = (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN)
    return (o_BTNH, lse_BTN), saved


def _backward(scale, soft_cap, rows, keys, saved, gradients):
    q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN = saved
    do_BTNH, dlse_BTN = gradients
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    M = N // K * rows
    dot = partial(jnp.einsum, precision=precision_of(q_BTNH.dtype), preferred_element_type=jnp.float32)
    plan = _plan(hide_start_BES, hide_end_BES, q_offset_BC, T, rows, keys)
    mask = _mask(hide_start_BES, hide_end_BES, keys)
    k_BKSH, v_BKSH = _keys_inside(k_BSKH, keys), _keys_inside(v_BSKH, keys)
    # d logit = p * (dp - sum(do * o) + dlse); rows without a key have lse -inf, where every p is exp(-inf - 0) = 0.
    empty_BTN = lse_BTN == -jnp.inf
    shift_BTN = (do_BTNH.astype(jnp.float32) * o_BTNH.astype(jnp.float32)).sum(-1) - dlse_BTN
    columns_BTN2 = jnp.where(empty_BTN[..., None], 0.0, jnp.stack([lse_BTN, shift_BTN], -1))
    inputs = tuple(query_tiles(x, K, rows) for x in (q_BTNH, do_BTNH, columns_BTN2))

    def query_tile(carry, tile):
        visits, (q_KMH, do_KMH, columns_KM2) = tile
        sequence = visits.sequence_P
        q_KMH, do_KMH = q_KMH.astype(jnp.float32) * scale, do_KMH.astype(jnp.float32)
        q_KHM, do_KHM = q_KMH.swapaxes(1, 2), do_KMH.swapaxes(1, 2)
        lse_KM, shift_KM = columns_KM2[..., 0], columns_KM2[..., 1]
        row_M = tile_positions(visits.first_row_P, rows, M)

        def key_block(block, carry, masked):
            dq_KHM, dk_BKSH, dv_BKSH = carry
            where = (sequence, _ZERO, block * keys, _ZERO)
            k_KXH = lax.dynamic_slice(k_BKSH, where, (1, K, keys, H))[0].astype(jnp.float32)
            v_KXH = lax.dynamic_slice(v_BKSH, where, (1, K, keys, H))[0].astype(jnp.float32)
            s_KXM = capped(dot("kxh,khm->kxm", k_KXH, q_KHM), soft_cap)
            shown_KXM = mask(s_KXM, sequence, row_M, block) if masked else s_KXM
            p_KXM = jnp.exp(shown_KXM - lse_KM[:, None])
            ds_KXM = p_KXM * (dot("kxh,khm->kxm", v_KXH, do_KHM) - shift_KM[:, None])
            if soft_cap is not None:
                ds_KXM *= 1.0 - jnp.square(s_KXM / soft_cap)

            def add(sum_BKSH, part_KXH):
                old = lax.dynamic_slice(sum_BKSH, where, (1, K, keys, H))
                return lax.dynamic_update_slice(sum_BKSH, old + part_KXH[None], where)

            dk_BKSH = add(dk_BKSH, dot("kxm,kmh->kxh", ds_KXM, q_KMH))
            dv_BKSH = add(dv_BKSH, dot("kxm,kmh->kxh", p_KXM, do_KMH))
            return dq_KHM + dot("kxh,kxm->khm", k_KXH, ds_KXM), dk_BKSH, dv_BKSH

        dq_KHM, dk_BKSH, dv_BKSH = _walk(visits, key_block, (_zeros(K, H, M), *carry))
        return (dk_BKSH, dv_BKSH), (dq_KHM.swapaxes(1, 2) * scale).astype(q_BTNH.dtype)

    zeros_BKSH = _zeros(*k_BKSH.shape)
    (dk_BKSH, dv_BKSH), dq_PKMH = lax.scan(query_tile, (zeros_BKSH, zeros_BKSH), (plan, inputs))
    dk_BSKH, dv_BSKH = (x.swapaxes(1, 2)[:, :S].astype(k_BSKH.dtype) for x in (dk_BKSH, dv_BKSH))
    return from_query_tiles(dq_PKMH, rows, B, T), dk_BSKH, dv_BSKH, None, None, None


attention.defvjp(_forward, _backward)
