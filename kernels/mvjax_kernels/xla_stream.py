"""Decode attention over streams in plain XLA."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mvjax_kernels.precision import precision_of


def stream_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.stream_attention`; the arguments are checked there."""
    R, L, N, H = q_RLNH.shape
    K, S = k_RKSH.shape[1:3]
    precision = precision_of(q_RLNH.dtype)
    # Rows of the product: lanes x query group, so that the stream is read once for all of them. On XLA:CPU this batched
    # product over [R, K, S, H] as stored is as fast as with keys stored [H, S], faster by half than a product per head,
    # many times as fast as multiplying and summing; nothing of the stream is copied or transposed.
    q_RKMH = (q_RLNH.astype(jnp.float32) * scale).reshape(R, L, K, N // K, H).swapaxes(1, 2).reshape(R, K, -1, H)
    logits_RKMS = jnp.einsum("rkmh,rksh->rkms", q_RKMH, k_RKSH.astype(jnp.float32), precision=precision)
    if soft_cap is not None:
        logits_RKMS = soft_cap * jnp.tanh(logits_RKMS / soft_cap)
    bits_L1 = jnp.left_shift(jnp.ones((), words_RS.dtype), jnp.arange(L, dtype=words_RS.dtype))[:, None]
    sees_RLS = (words_RS[:, None] & bits_L1) != 0
    logits_RKLGS = jnp.where(sees_RLS[:, None, :, None], logits_RKMS.reshape(R, K, L, N // K, S), -jnp.inf)
    top_RKLG1 = logits_RKLGS.max(-1, keepdims=True)
    weights_RKLGS = jnp.exp(logits_RKLGS - jnp.where(top_RKLG1 == -jnp.inf, 0.0, top_RKLG1))
    total_RKLG1 = weights_RKLGS.sum(-1, keepdims=True)
    weights_RKMS = weights_RKLGS.reshape(R, K, -1, S)
    o_RKMH = jnp.einsum("rkms,rksh->rkmh", weights_RKMS, v_RKSH.astype(jnp.float32), precision=precision)
    o_RKLGH = o_RKMH.reshape(R, K, L, N // K, H) / jnp.where(total_RKLG1 == 0, 1.0, total_RKLG1)
    return o_RKLGH.swapaxes(1, 2).reshape(R, L, N, H).astype(q_RLNH.dtype)
