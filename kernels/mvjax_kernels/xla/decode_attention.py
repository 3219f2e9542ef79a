"""Decode attention over KV streams in plain XLA, and new slots for their pages."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels.precision import precision_of


def gather(
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    k_scale_PKZ: Float[Array, "P K Z"] | None,
    v_scale_PKZ: Float[Array, "P K Z"] | None,
    pages_RM: Int[Array, "R M"],
    length_R: Int[Array, " R"],
    words_RS: Integer[Array, "R S"],
    dtype: jnp.dtype,
) -> tuple[Float[Array, "R K S H"], Float[Array, "R K S H"], Integer[Array, "R S"]]:
    """Paged KV streams as contiguous ones in `dtype`; slots behind an end are zero and seen by no lane."""
    R, M = pages_RM.shape
    K, Z, H = k_PKZH.shape[1:]
    live_RS = jnp.arange(M * Z) < length_R[:, None]
    pages_RM = jnp.where(jnp.arange(M) * Z < length_R[:, None], pages_RM, 0)

    def contiguous(x_PKZH, scale_PKZ):
        x_RMKZH = x_PKZH[pages_RM].astype(dtype if scale_PKZ is None else jnp.float32)
        if scale_PKZ is not None:
            x_RMKZH *= scale_PKZ[pages_RM][..., None]
        x_RKSH = x_RMKZH.swapaxes(1, 2).reshape(R, K, M * Z, H)
        return jnp.where(live_RS[:, None, :, None], x_RKSH, 0).astype(dtype)

    k_RKSH, v_RKSH = contiguous(k_PKZH, k_scale_PKZ), contiguous(v_PKZH, v_scale_PKZ)
    return k_RKSH, v_RKSH, jnp.where(live_RS, words_RS, 0)


def write_paged_kv(
    k_PKZH: Float[Array, "P K Z H"],
    v_PKZH: Float[Array, "P K Z H"],
    new_k_RLKH: Float[Array, "R L K H"],
    new_v_RLKH: Float[Array, "R L K H"],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
) -> tuple[Float[Array, "P K Z H"], Float[Array, "P K Z H"]]:
    """See `mvjax_kernels.write_paged_kv`; the arguments are checked there."""
    (P, _, Z, _), M = k_PKZH.shape, pages_RM.shape[1]
    slot_RL = start_R[:, None] + jnp.arange(new_k_RLKH.shape[1], dtype=jnp.int32)
    page_RL = jnp.take_along_axis(pages_RM, jnp.minimum(slot_RL // Z, M - 1), axis=1)
    page_RL = jnp.where(slot_RL < M * Z, page_RL, P)
    where = (page_RL, slice(None), slot_RL % Z)
    return k_PKZH.at[where].set(new_k_RLKH, mode="drop"), v_PKZH.at[where].set(new_v_RLKH, mode="drop")


def decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.decode_attention`; the arguments are checked there."""
    R, L, N, H = q_RLNH.shape
    K, S = k_RKSH.shape[1:3]
    precision = precision_of(q_RLNH.dtype)
    # Rows of the product: lanes x query group, so that keys and values are read once for all of them. On XLA:CPU this
    # batched product over [R, K, S, H] as stored is as fast as with keys stored [H, S], faster by half than a product
    # per head, many times as fast as multiplying and summing; nothing is copied or transposed.
    q_RKMH = (q_RLNH.astype(jnp.float32) * scale).reshape(R, L, K, N // K, H).swapaxes(1, 2).reshape(R, K, -1, H)
    logits_RKMS = jnp.einsum("rkmh,rksh->rkms", q_RKMH, k_RKSH.astype(jnp.float32), precision=precision)
    if soft_cap is not None:
        logits_RKMS = soft_cap * jnp.tanh(logits_RKMS / soft_cap)
    bits_L1 = jnp.left_shift(jnp.ones((), words_RS.dtype), jnp.arange(L, dtype=words_RS.dtype))[:, None]
    sees_RLS = (words_RS[:, None] & bits_L1) != 0
    logits_RKLGS = jnp.where(sees_RLS[:, None, :, None], logits_RKMS.reshape(R, K, L, N // K, S), -jnp.inf)
    m_RKLG1 = logits_RKLGS.max(-1, keepdims=True)
    weights_RKLGS = jnp.exp(logits_RKLGS - jnp.where(m_RKLG1 == -jnp.inf, 0.0, m_RKLG1))
    l_RKLG1 = weights_RKLGS.sum(-1, keepdims=True)
    weights_RKMS = weights_RKLGS.reshape(R, K, -1, S)
    o_RKMH = jnp.einsum("rkms,rksh->rkmh", weights_RKMS, v_RKSH.astype(jnp.float32), precision=precision)
    o_RKLGH = o_RKMH.reshape(R, K, L, N // K, H) / jnp.where(l_RKLG1 == 0, 1.0, l_RKLG1)
    return o_RKLGH.swapaxes(1, 2).reshape(R, L, N, H).astype(q_RLNH.dtype)


def merge_parts(o_RKXMH: Float[Array, "R K X M H"], lse_RKXM: Float[Array, "R K X M"]) -> Float[Array, "R K M H"]:
    """The softmax over a whole KV stream from those over X parts of it and their log-sum-exps."""
    m_RK1M = lse_RKXM.max(2, keepdims=True)
    weight_RKXM = jnp.exp(lse_RKXM - jnp.where(m_RK1M == -jnp.inf, 0.0, m_RK1M))
    l_RKM = weight_RKXM.sum(2)
    o_RKMH = jnp.einsum("rkxm,rkxmh->rkmh", weight_RKXM, o_RKXMH, precision=lax.Precision.HIGHEST)
    return o_RKMH / jnp.where(l_RKM == 0, 1.0, l_RKM)[..., None]
