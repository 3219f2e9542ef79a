"""Multiverse Attention in plain XLA: blockwise with a running softmax, forward and backward.

One loop over tiles of query rows, inside it one over the key blocks that they see (a trip count known only on the
device). Tiles lie keys first, [key, row]: a row's maximum and sum broadcast along the fast dimension, and every product
of the forward pass has its operands in the order in which they are stored. The rows of a tile are its positions times
the query group, so each key block is read once for all query heads that share it.

The backward pass walks the same tiles in the same order: dq is summed per tile of queries, dk and dv in place in whole
arrays (float32). Five products a tile; the logits are computed again from the log-sum-exp.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of
from mvjax_kernels.tiles import INT32_MAX, TileSpans, classify, tile_spans

TILES = ((4, 128, 128), (8, 64, 128), (2**31, 32, 128))
"""(largest query group G, query positions, keys) of a tile on CPU.

The logits of a tile, K x keys x (G x positions) in float32, should stay in a core's second-level cache (about 0.5 MiB),
yet each product should take long enough (50 us) to be worth starting. 64 x 128 to 128 x 512 all came within a tenth of
each other at SmolLM2's heads (K = 3, G = 3, H = 64); 256 x 256 was a third slower. Among equals the smallest key block
wins: at T = 2048 a causal mask then visits 53 % of the square, 56 % with 256 keys, and packed trees gain more.
"""


def tile_shape(group: int, length: int, keys: int) -> tuple[int, int]:
    """Query positions and keys per tile for G query heads a kv head, T = `length` queries and S = `keys` keys."""
    most_rows, most_keys = next((r, k) for largest, r, k in TILES if group <= largest)
    return min(most_rows, -(-length // 8) * 8), min(most_keys, -(-keys // 8) * 8)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9))
def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_B: Int[Array, " B"],
    scale: float,
    soft_cap: float | None,
    rows: int,
    keys: int,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """See `mvjax_kernels.attention`; the arguments are checked there. Tiles are `rows` x `keys`."""
    return _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B, scale, soft_cap, rows, keys)[0]


class _Tiles(NamedTuple):
    """The masks' side of a call, the same in both directions."""

    hide_start_BSE: Array
    hide_end_BSE: Array
    q_offset_B: Array
    spans: TileSpans
    count: int
    """Query tiles a sequence."""

    def visited(self, b: Array, tile: Array, rows: int, length: int) -> tuple[Array, Array, Array]:
        """The key blocks that a query tile sees, in order, their number, and which blocks it sees in full."""
        first = self.q_offset_B[b] + tile * rows
        last = self.q_offset_B[b] + jnp.minimum((tile + 1) * rows, length)
        spans = TileSpans(*(x[b][None] if x.ndim == 3 else x for x in self.spans))
        visible_C, full_C = (x[0] for x in classify(spans, first[None], last[None]))
        return jnp.argsort(~visible_C, stable=True), visible_C.sum(dtype=jnp.int32), full_C

    def mask(self, s_KXM: Array, b: Array, row_M: Array, block: Array, full: Array) -> Array:
        """-inf for the keys of a block that a row does not see. Tiles seen in full skip the arithmetic."""
        return lax.cond(
            full, lambda s: s, lambda s: jnp.where(self.hidden(b, row_M, block, s.shape[1]), -jnp.inf, s), s_KXM
        )

    def hidden(self, b: Array, row_M: Array, block: Array, keys: int) -> Array:
        """[key, row] of one tile: the key is not visible to the row."""
        j = block * keys
        hidden_XM = row_M < (j + jnp.arange(keys, dtype=jnp.int32))[:, None]
        levels = self.hide_start_BSE.shape[-1]
        start_XE = lax.dynamic_slice(self.hide_start_BSE, (b, j, 0), (1, keys, levels))[0]
        end_XE = lax.dynamic_slice(self.hide_end_BSE, (b, j, 0), (1, keys, levels))[0]
        for e in range(levels):
            hidden_XM |= (row_M >= start_XE[:, e, None]) & (row_M < end_XE[:, e, None])
        return hidden_XM


def _tiles(hide_start_BES, hide_end_BES, q_offset_B, length: int, rows: int, keys: int) -> _Tiles:
    spans = tile_spans(hide_start_BES, hide_end_BES, keys)
    # Keys that only fill the last block are hidden from every row.
    pad = (0, -hide_start_BES.shape[2] % keys)
    start_BSE = jnp.pad(hide_start_BES, ((0, 0), (0, 0), pad)).swapaxes(1, 2)
    end_BSE = jnp.pad(hide_end_BES, ((0, 0), (0, 0), pad), constant_values=INT32_MAX).swapaxes(1, 2)
    return _Tiles(start_BSE, end_BSE, q_offset_B, spans, -(-length // rows))


def _query_tiles(x_BTNH: Array, kv_heads: int, rows: int) -> Array:
    """[B, tile, K, G * rows, H] in float32, rows beyond T zero."""
    B, T, N, H = x_BTNH.shape
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, -T % rows), (0, 0), (0, 0)))
    x = x_BTNH.reshape(B, -1, rows, kv_heads, N // kv_heads, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(*x.shape[:3], -1, H)


def _from_query_tiles(x_BQKMH: Array, rows: int, length: int) -> Array:
    B, Q, K, _, H = x_BQKMH.shape
    x = x_BQKMH.reshape(B, Q, K, -1, rows, H).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(B, Q * rows, -1, H)[:, :length]


def _keys_first(x_BSKH: Array, keys: int) -> Array:
    """[B, K, S, H], slots beyond S zero."""
    return jnp.pad(x_BSKH, ((0, 0), (0, -x_BSKH.shape[1] % keys), (0, 0), (0, 0))).swapaxes(1, 2)


def _cap(logits: Array, soft_cap: float | None) -> Array:
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B, scale, soft_cap, rows, keys):
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    M = N // K * rows
    dot = partial(jnp.einsum, precision=precision_of(q_BTNH.dtype), preferred_element_type=jnp.float32)
    tiles = _tiles(hide_start_BES, hide_end_BES, q_offset_B, T, rows, keys)
    q_BQKMH = _query_tiles(q_BTNH, K, rows)
    k_BKSH, v_BKHS = _keys_first(k_BSKH, keys), _keys_first(v_BSKH, keys).swapaxes(2, 3)

    def query_tile(_, index):
        b, tile = index // tiles.count, index % tiles.count
        q_KHM = q_BQKMH[b, tile].astype(jnp.float32).swapaxes(1, 2) * scale
        row_M = q_offset_B[b] + tile * rows + jnp.arange(M, dtype=jnp.int32) % rows
        blocks_C, count, full_C = tiles.visited(b, tile, rows, T)

        def key_block(step, carry):
            o_KHM, top_KM, total_KM = carry
            block = blocks_C[step]
            k_KXH = lax.dynamic_slice(k_BKSH, (b, 0, block * keys, 0), (1, K, keys, H))[0].astype(jnp.float32)
            v_KHX = lax.dynamic_slice(v_BKHS, (b, 0, 0, block * keys), (1, K, H, keys))[0].astype(jnp.float32)
            s_KXM = _cap(dot("kxh,khm->kxm", k_KXH, q_KHM), soft_cap)
            s_KXM = tiles.mask(s_KXM, b, row_M, block, full_C[block])
            new_KM = jnp.maximum(top_KM, s_KXM.max(1))
            safe_KM = jnp.where(new_KM == -jnp.inf, 0.0, new_KM)
            p_KXM = jnp.exp(s_KXM - safe_KM[:, None])
            shrink_KM = jnp.exp(top_KM - safe_KM)
            o_KHM = o_KHM * shrink_KM[:, None] + dot("khx,kxm->khm", v_KHX, p_KXM)
            return o_KHM, new_KM, total_KM * shrink_KM + p_KXM.sum(1)

        start = (jnp.zeros((K, H, M)), jnp.full((K, M), -jnp.inf), jnp.zeros((K, M)))
        o_KHM, top_KM, total_KM = lax.fori_loop(0, count, key_block, start)
        empty_KM = total_KM == 0
        o_KHM /= jnp.where(empty_KM, 1.0, total_KM)[:, None]
        lse_KM = jnp.where(empty_KM, -jnp.inf, top_KM + jnp.log(jnp.where(empty_KM, 1.0, total_KM)))
        return None, (o_KHM.swapaxes(1, 2).astype(q_BTNH.dtype), lse_KM)

    _, (o, lse) = lax.scan(query_tile, None, jnp.arange(B * tiles.count, dtype=jnp.int32))
    o_BTNH = _from_query_tiles(o.reshape(B, tiles.count, K, M, H), rows, T)
    lse_BTN = _from_query_tiles(lse.reshape(B, tiles.count, K, M, 1), rows, T)[..., 0]
    saved = (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B, o_BTNH, lse_BTN)
    return (o_BTNH, lse_BTN), saved


def _backward(scale, soft_cap, rows, keys, saved, gradients):
    q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B, o_BTNH, lse_BTN = saved
    do_BTNH, dlse_BTN = gradients
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    M = N // K * rows
    dot = partial(jnp.einsum, precision=precision_of(q_BTNH.dtype), preferred_element_type=jnp.float32)
    tiles = _tiles(hide_start_BES, hide_end_BES, q_offset_B, T, rows, keys)
    q_BQKMH, do_BQKMH = _query_tiles(q_BTNH, K, rows), _query_tiles(do_BTNH, K, rows)
    k_BKSH, v_BKSH = _keys_first(k_BSKH, keys), _keys_first(v_BSKH, keys)
    # d logit = p * (dp - sum(do * o) + dlse); rows without a key have lse -inf, where every p is exp(-inf - 0) = 0.
    shift_BTN = (do_BTNH.astype(jnp.float32) * o_BTNH.astype(jnp.float32)).sum(-1) - dlse_BTN
    shift_BQKM = _query_tiles(jnp.where(lse_BTN == -jnp.inf, 0.0, shift_BTN)[..., None], K, rows)[..., 0]
    lse_BQKM = _query_tiles(jnp.where(lse_BTN == -jnp.inf, 0.0, lse_BTN)[..., None], K, rows)[..., 0]

    def query_tile(carry, index):
        b, tile = index // tiles.count, index % tiles.count
        q_KMH = q_BQKMH[b, tile].astype(jnp.float32) * scale
        do_KMH = do_BQKMH[b, tile].astype(jnp.float32)
        q_KHM, do_KHM = q_KMH.swapaxes(1, 2), do_KMH.swapaxes(1, 2)
        lse_KM, shift_KM = lse_BQKM[b, tile], shift_BQKM[b, tile]
        row_M = q_offset_B[b] + tile * rows + jnp.arange(M, dtype=jnp.int32) % rows
        blocks_C, count, full_C = tiles.visited(b, tile, rows, T)

        def key_block(step, carry):
            dq_KHM, dk_BKSH, dv_BKSH = carry
            block = blocks_C[step]
            where = (b, 0, block * keys, 0)
            k_KXH = lax.dynamic_slice(k_BKSH, where, (1, K, keys, H))[0].astype(jnp.float32)
            v_KXH = lax.dynamic_slice(v_BKSH, where, (1, K, keys, H))[0].astype(jnp.float32)
            s_KXM = _cap(dot("kxh,khm->kxm", k_KXH, q_KHM), soft_cap)
            p_KXM = jnp.exp(tiles.mask(s_KXM, b, row_M, block, full_C[block]) - lse_KM[:, None])
            ds_KXM = p_KXM * (dot("kxh,khm->kxm", v_KXH, do_KHM) - shift_KM[:, None])
            if soft_cap is not None:
                ds_KXM *= 1.0 - jnp.square(s_KXM / soft_cap)
            dv_KXH = dot("kxm,kmh->kxh", p_KXM, do_KMH)
            dk_KXH = dot("kxm,kmh->kxh", ds_KXM, q_KMH)
            dq_KHM += dot("kxh,kxm->khm", k_KXH, ds_KXM)

            def add(sum_BKSH, part_KXH):
                old = lax.dynamic_slice(sum_BKSH, where, (1, K, keys, H))
                return lax.dynamic_update_slice(sum_BKSH, old + part_KXH[None], where)

            return dq_KHM, add(dk_BKSH, dk_KXH), add(dv_BKSH, dv_KXH)

        dq_KHM, dk_BKSH, dv_BKSH = lax.fori_loop(0, count, key_block, (jnp.zeros((K, H, M)), *carry))
        return (dk_BKSH, dv_BKSH), (dq_KHM.swapaxes(1, 2) * scale).astype(q_BTNH.dtype)

    zeros_BKSH = jnp.zeros(k_BKSH.shape, jnp.float32)
    indices = jnp.arange(B * tiles.count, dtype=jnp.int32)
    (dk_BKSH, dv_BKSH), dq = lax.scan(query_tile, (zeros_BKSH, zeros_BKSH), indices)
    dq_BTNH = _from_query_tiles(dq.reshape(B, tiles.count, K, M, H), rows, T)
    dk_BSKH, dv_BSKH = (x.swapaxes(1, 2)[:, : k_BSKH.shape[1]].astype(k_BSKH.dtype) for x in (dk_BKSH, dv_BKSH))
    return dq_BTNH, dk_BSKH, dv_BSKH, None, None, None


attention.defvjp(_forward, _backward)
