"""Decode attention over KV streams in plain XLA, and new slots for their pages."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels.precision import precision_of
from mvjax_kernels.xla.attention import capped
from mvjax_kernels.xla.page_blocks import PagedStreams, columns


def block_sizes(platform: str, requests: int) -> tuple[int, int]:
    """Slots of a block, and requests that go through their streams together.

    On a CPU the block should stay in a core's cache between its copy and its product, and a request costs what its own
    stream is long; elsewhere an iteration costs more than what it computes.
    """
    return (256, 1) if platform == "cpu" else (512, requests)


def write_paged_kv(
    pages: Sequence[Shaped[Array, "P K Z ..."]],
    news: Sequence[Shaped[Array, "R L K ..."]],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
) -> tuple[Shaped[Array, "P K Z ..."], ...]:
    """See `mvjax_kernels.write_paged_kv`; the arguments are checked there. `news` go into `pages`, one by one."""
    (P, _, Z), M = pages[0].shape[:3], pages_RM.shape[1]
    slot_RL = start_R[:, None] + jnp.arange(news[0].shape[1], dtype=jnp.int32)
    page_RL = jnp.take_along_axis(pages_RM, jnp.minimum(slot_RL // Z, M - 1), axis=1)
    page_RL = jnp.where(slot_RL < M * Z, page_RL, P)
    where = (page_RL, slice(None), slot_RL % Z)
    return tuple(held.at[where].set(new, mode="drop") for held, new in zip(pages, news, strict=True))


def decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.decode_attention`; the arguments are checked there."""
    K, L, precision = k_RKSH.shape[1], q_RLNH.shape[1], precision_of(q_RLNH.dtype)
    # On XLA:CPU this batched product over [R, K, S, H] as stored is as fast as with keys stored [H, S], faster by half
    # than a product per head, many times as fast as multiplying and summing; nothing is copied or transposed.
    q_RKMH = _product_rows(q_RLNH, K, scale)
    logits_RKMS = jnp.einsum("rkmh,rksh->rkms", q_RKMH, k_RKSH.astype(jnp.float32), precision=precision)
    logits_RKMS = _visible(capped(logits_RKMS, soft_cap), words_RS, L)
    m_RKM1 = logits_RKMS.max(-1, keepdims=True)
    weights_RKMS = jnp.exp(logits_RKMS - jnp.where(m_RKM1 == -jnp.inf, 0.0, m_RKM1))
    l_RKM1 = weights_RKMS.sum(-1, keepdims=True)
    o_RKMH = jnp.einsum("rkms,rksh->rkmh", weights_RKMS, v_RKSH.astype(jnp.float32), precision=precision)
    return _lanes(o_RKMH / jnp.where(l_RKM1 == 0, 1.0, l_RKM1), L).astype(q_RLNH.dtype)


def paged_decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    streams: PagedStreams,
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
    slots: int,
    together: int,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.paged_decode_attention`; the arguments are checked there.

    Streams of like length go together, `together` at a time, through blocks of about `slots` slots, as many as the
    longest of them has. A block that a stream lacks changes nothing of its softmax, so what a request gets does not
    depend on the others.
    """
    R, L, K = *q_RLNH.shape[:2], streams.k_PKZH.shape[1]
    pages, length_R = streams.pages_of(slots), streams.length_R
    q_RKMH, precision = _product_rows(q_RLNH, K, scale), precision_of(q_RLNH.dtype)

    def attend(q_CKMH: Array, request_C: Array | None) -> Array:
        def visit(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            block = streams.block(index, pages, request_C)
            words_CX = columns(words_RS, block.slot_X[0], len(block.slot_X), request_C)
            words_CX = jnp.where(block.live_CX, words_CX, 0)
            k_CKXH, v_CKXH = block.k_CKXH.astype(jnp.float32), block.v_CKXH.astype(jnp.float32)
            logits_CKMX = jnp.einsum("ckmh,ckxh->ckmx", q_CKMH, k_CKXH, precision=precision)
            if block.k_scale_CKX is not None:
                logits_CKMX *= block.k_scale_CKX[:, :, None]
            logits_CKMX = _visible(capped(logits_CKMX, soft_cap), words_CX, L)
            o_CKMH, m_CKM1, l_CKM1 = carry
            new_m_CKM1 = jnp.maximum(m_CKM1, logits_CKMX.max(-1, keepdims=True))
            safe_CKM1 = jnp.where(new_m_CKM1 == -jnp.inf, 0.0, new_m_CKM1)
            weights_CKMX, shrink_CKM1 = jnp.exp(logits_CKMX - safe_CKM1), jnp.exp(m_CKM1 - safe_CKM1)
            l_CKM1 = l_CKM1 * shrink_CKM1 + weights_CKMX.sum(-1, keepdims=True)
            if block.v_scale_CKX is not None:
                weights_CKMX *= block.v_scale_CKX[:, :, None]
            part_CKMH = jnp.einsum("ckmx,ckxh->ckmh", weights_CKMX, v_CKXH, precision=precision)
            return o_CKMH * shrink_CKM1 + part_CKMH, new_m_CKM1, l_CKM1

        most = length_R.max() if request_C is None else length_R[request_C].max()
        column_CKM1 = jnp.zeros_like(q_CKMH[..., :1])
        start = jnp.zeros_like(q_CKMH), column_CKM1 - jnp.inf, column_CKM1
        blocks = -(-most // (pages * streams.k_PKZH.shape[2]))
        o_CKMH, _, l_CKM1 = lax.fori_loop(0, blocks, visit, start)
        return o_CKMH / jnp.where(l_CKM1 == 0, 1.0, l_CKM1)

    if together >= R:
        return _lanes(attend(q_RKMH, None), L).astype(q_RLNH.dtype)
    longest_first_R = jnp.argsort(-length_R, stable=True)

    def group(index: Array, o_RKMH: Array) -> Array:
        # The last group may take streams along that had their turn: they get the same again.
        first = jnp.minimum(index * together, R - together)
        request_C = lax.dynamic_slice_in_dim(longest_first_R, first, together)
        return o_RKMH.at[request_C].set(attend(q_RKMH[request_C], request_C))

    groups = -(-jnp.sum(length_R > 0, dtype=jnp.int32) // together)
    return _lanes(lax.fori_loop(0, groups, group, jnp.zeros_like(q_RKMH)), L).astype(q_RLNH.dtype)


def _product_rows(q_RLNH: Array, kv_heads: int, scale: float) -> Array:
    """[R, K, L * G, H], float32 and scaled: lanes x query group, so that keys and values are read once for all."""
    R, L, N, H = q_RLNH.shape
    q_RLKGH = (q_RLNH.astype(jnp.float32) * scale).reshape(R, L, kv_heads, N // kv_heads, H)
    return q_RLKGH.swapaxes(1, 2).reshape(R, kv_heads, -1, H)


def _lanes(x_RKMH: Array, lanes: int) -> Array:
    """[R, L, N, H]: the inverse of `_product_rows`."""
    R, K, _, H = x_RKMH.shape
    return x_RKMH.reshape(R, K, lanes, -1, H).swapaxes(1, 2).reshape(R, lanes, -1, H)


def _visible(logits_RKMS: Array, words_RS: Array, lanes: int) -> Array:
    """The logits, -inf where a row's lane does not see the slot."""
    R, K, M, S = logits_RKMS.shape
    bits_L1 = jnp.left_shift(jnp.ones((), words_RS.dtype), jnp.arange(lanes, dtype=words_RS.dtype))[:, None]
    sees_RLS = (words_RS[:, None] & bits_L1) != 0
    logits_RKLGS = logits_RKMS.reshape(R, K, lanes, -1, S)
    return jnp.where(sees_RLS[:, None, :, None], logits_RKLGS, -jnp.inf).reshape(R, K, M, S)


def merge_parts(o_RKXMH: Float[Array, "R K X M H"], lse_RKXM: Float[Array, "R K X M"]) -> Float[Array, "R K M H"]:
    """The softmax over a whole KV stream from those over X parts of it and their log-sum-exps."""
    m_RK1M = lse_RKXM.max(2, keepdims=True)
    weight_RKXM = jnp.exp(lse_RKXM - jnp.where(m_RK1M == -jnp.inf, 0.0, m_RK1M))
    l_RKM = weight_RKXM.sum(2)
    o_RKMH = jnp.einsum("rkxm,rkxmh->rkmh", weight_RKXM, o_RKXMH, precision=lax.Precision.HIGHEST)
    return o_RKMH / jnp.where(l_RKM == 0, 1.0, l_RKM)[..., None]
