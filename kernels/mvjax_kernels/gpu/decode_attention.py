"""Decode attention over paged KV streams for NVIDIA GPUs, called through jax-triton. Needs the `gpu` extra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax_triton
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels.gpu import decode_kernels
from mvjax_kernels.tuning import GpuDecodeTiles
from mvjax_kernels.xla.decode_attention import merge_parts


def decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    k_scale_PKZ: Float[Array, "P K Z"] | None,
    v_scale_PKZ: Float[Array, "P K Z"] | None,
    pages_RM: Int[Array, "R M"],
    length_R: Int[Array, " R"],
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
    tiles: GpuDecodeTiles,
    compute_capability: int | None,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.decode_attention`; the arguments are checked there."""
    R, L, N, H = q_RLNH.shape
    K, Z = k_PKZH.shape[1:3]
    rows = max(16, 1 << (L * (N // K) - 1).bit_length())
    quantised = k_scale_PKZ is not None
    # Without scales the pointers are never read: anything will do.
    scales = (k_scale_PKZ, v_scale_PKZ) if quantised else (length_R, length_R)
    o_RKXMH, lse_RKXM = jax_triton.triton_call(
        *(q_RLNH, k_PKZH, v_PKZH, *scales, pages_RM, length_R, words_RS.astype(jnp.int32)),
        np.float32(scale),
        np.float32(soft_cap or 1.0),
        kernel=decode_kernels.decode,
        out_shape=[
            jax.ShapeDtypeStruct((R, K, tiles.splits, rows, H), jnp.float32),
            jax.ShapeDtypeStruct((R, K, tiles.splits, rows), jnp.float32),
        ],
        grid=(tiles.splits, K, R),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        compute_capability=compute_capability,
        L=L,
        N=N,
        K=K,
        H=H,
        Z=Z,
        PAGES=pages_RM.shape[1],
        ROWS=rows,
        BLOCK=tiles.block,
        CAP=soft_cap is not None,
        QUANTISED=quantised,
    )
    o_RKMH = merge_parts(o_RKXMH, lse_RKXM)[:, :, : L * (N // K)]
    return o_RKMH.reshape(R, K, L, N // K, H).transpose(0, 2, 1, 3, 4).reshape(R, L, N, H).astype(q_RLNH.dtype)
