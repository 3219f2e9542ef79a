"""Decode attention over streams in plain XLA."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of


def stream_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Int[Array, "R S"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.stream_attention`; the arguments are checked there."""
    R, L, N, H = q_RLNH.shape
    K, S = k_RKSH.shape[1:3]
    precision = precision_of(q_RLNH.dtype)
    # Rows of the product: lanes x query group, so that the stream is read once for all of them.
    q_RKMH = (q_RLNH.astype(jnp.float32) * scale).reshape(R, L, K, N // K, H).swapaxes(1, 2).reshape(R, K, -1, H)
    logits_RKMS = jnp.einsum("rkmh,rksh->rkms", q_RKMH, k_RKSH.astype(jnp.float32), precision=precision)
    if soft_cap is not None:
        logits_RKMS = soft_cap * jnp.tanh(logits_RKMS / soft_cap)
    bits_L1 = jnp.left_shift(jnp.ones((), words_RS.dtype), jnp.arange(L, dtype=words_RS.dtype))[:, None]
    sees_R1LS = (words_RS[:, None, None] & bits_L1) != 0
    sees_RKMS = jnp.broadcast_to(sees_R1LS[:, :, :, None], (R, 1, L, N // K, S)).reshape(R, 1, -1, S)
    logits_RKMS = jnp.where(sees_RKMS, logits_RKMS, -jnp.inf)
    top_RKM1 = logits_RKMS.max(-1, keepdims=True)
    weights_RKMS = jnp.exp(logits_RKMS - jnp.where(top_RKM1 == -jnp.inf, 0.0, top_RKM1))
    total_RKM1 = weights_RKMS.sum(-1, keepdims=True)
    o_RKMH = jnp.einsum("rkms,rksh->rkmh", weights_RKMS, v_RKSH.astype(jnp.float32), precision=precision)
    o_RKMH /= jnp.where(total_RKM1 == 0, 1.0, total_RKM1)
    return o_RKMH.reshape(R, K, L, N // K, H).swapaxes(1, 2).reshape(R, L, N, H).astype(q_RLNH.dtype)
