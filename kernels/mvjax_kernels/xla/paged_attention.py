"""Attention of chunks of prompts over paged KV streams, in plain XLA.

One loop over tiles of query rows, inside it one over the blocks of pages that a tile sees: their number is known on the
device only, and rows without a token and the width of the page table cost nothing. Tiles lie keys first, [key, row], as
in `mvjax_kernels.xla.attention`.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of
from mvjax_kernels.xla.attention import capped, from_query_tiles, query_tiles, tile_positions
from mvjax_kernels.xla.page_blocks import Block, PagedStreams


def tile_shape(platform: str, group: int, length: int) -> tuple[int, int]:
    """Query positions of a tile, and slots of a block: G query heads a kv head, T = `length` queries.

    On a CPU as `mvjax_kernels.xla.attention.TILES`; elsewhere an iteration costs more than what it computes.
    """
    positions, slots = (128 if group <= 4 else 64, 128) if platform == "cpu" else (256, 512)
    return min(positions, -(-length // 8) * 8), slots


def paged_attention(
    q_BTNH: Float[Array, "B T N H"],
    streams: PagedStreams,
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_B: Int[Array, " B"],
    scale: float,
    soft_cap: float | None,
    rows: int,
    slots: int,
) -> Float[Array, "B T N H"]:
    """See `mvjax_kernels.paged_attention`; the arguments are checked there. Tiles are `rows` positions x `slots` slots;
    the streams' lengths are the ends of the chunks."""
    (B, T, N, _), (_, K, Z, _), levels = q_BTNH.shape, streams.k_PKZH.shape, hide_start_BES.shape[1]
    pages = streams.pages_of(slots)
    M, X = N // K * rows, pages * Z
    dot = partial(jnp.einsum, precision=precision_of(q_BTNH.dtype), preferred_element_type=jnp.float32)
    q_PKMH = query_tiles(q_BTNH, K, rows)

    def hidden(block: Block, sequence: Array, row_M: Array) -> Array:
        """[X, M]: which slots of a block which rows do not see."""
        hidden_XM = ~block.live_CX[0][:, None] | (row_M < block.slot_X[:, None])
        if levels:
            where, size = (sequence, np.int32(0), block.slot_X[0]), (1, levels, X)
            start_EX = lax.dynamic_slice(hide_start_BES, where, size)[0]
            end_EX = lax.dynamic_slice(hide_end_BES, where, size)[0]
            for start_X, end_X in zip(start_EX, end_EX):
                hidden_XM |= (row_M >= start_X[:, None]) & (row_M < end_X[:, None])
        return hidden_XM

    def tile(number: Array, o_PKMH: Array) -> Array:
        sequence = number // (len(q_PKMH) // B)
        first = q_offset_B[sequence] + number % (len(q_PKMH) // B) * rows
        end = jnp.minimum(first + rows, streams.length_R[sequence])
        row_M = tile_positions(first, rows, M)
        q_KMH = lax.dynamic_index_in_dim(q_PKMH, number, keepdims=False)
        q_KHM = q_KMH.astype(jnp.float32).swapaxes(1, 2) * scale

        def visit(index: Array, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
            o_KHM, m_KM, l_KM = carry
            block = streams.block(index, pages, sequence[None])
            k_KXH, v_KXH = block.k_CKXH[0].astype(jnp.float32), block.v_CKXH[0].astype(jnp.float32)
            s_KXM = dot("kxh,khm->kxm", k_KXH, q_KHM)
            if block.k_scale_CKX is not None:
                s_KXM *= block.k_scale_CKX[0, :, :, None]
            s_KXM = capped(s_KXM, soft_cap)
            if masked:
                s_KXM = jnp.where(hidden(block, sequence, row_M), -jnp.inf, s_KXM)
            m_new_KM = jnp.maximum(m_KM, s_KXM.max(1))
            safe_KM = jnp.where(m_new_KM == -jnp.inf, 0.0, m_new_KM)
            p_KXM, shrink_KM = jnp.exp(s_KXM - safe_KM[:, None]), jnp.exp(m_KM - safe_KM)
            l_KM = l_KM * shrink_KM + p_KXM.sum(1)
            if block.v_scale_CKX is not None:
                p_KXM *= block.v_scale_CKX[0, :, :, None]
            return o_KHM * shrink_KM[:, None] + dot("kxh,kxm->khm", v_KXH, p_KXM), m_new_KM, l_KM

        # Rows behind the chunk's end get something, and lose it below.
        blocks, whole = jnp.where(first < end, -(-end // X), 0), 0
        carry = jnp.zeros(q_KHM.shape, jnp.float32), jnp.full((K, M), -jnp.inf, jnp.float32), jnp.zeros((K, M))
        if levels == 0:  # Blocks before the tile's first row need no mask.
            whole = jnp.minimum((first + 1) // X, blocks)
            carry = lax.fori_loop(0, whole, partial(visit, masked=False), carry)
        o_KHM, _, l_KM = lax.fori_loop(whole, blocks, partial(visit, masked=True), carry)
        empty_KM = (l_KM == 0) | (row_M >= end)
        o_KHM = jnp.where(empty_KM[:, None], 0.0, o_KHM / jnp.where(empty_KM, 1.0, l_KM)[:, None])
        return lax.dynamic_update_index_in_dim(o_PKMH, o_KHM.swapaxes(1, 2).astype(q_BTNH.dtype), number, 0)

    o_PKMH = lax.fori_loop(0, len(q_PKMH), tile, jnp.zeros_like(q_PKMH))
    return from_query_tiles(o_PKMH, rows, B, T)
