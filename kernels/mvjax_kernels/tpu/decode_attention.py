"""Decode attention over paged KV streams for TPUs: every live page is copied once a step for all rows.

The pages of all requests are one list in scalar memory; copies run along it a few pages ahead of the work, across the
border between two requests too. Rows of a product are lanes times query group. A KV stream is not split: a TPU core
works on one grid step at a time, so that splitting would gain no occupancy.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels.precision import precision_of
from mvjax_kernels.tpu import REGISTER_WIDTH

AHEAD = 3
"""Pages under way while one is worked on."""


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
    interpret: bool,
) -> Float[Array, "R L N H"]:
    """See `mvjax_kernels.decode_attention`; the arguments are checked there."""
    R, L, N, H = q_RLNH.shape
    K, Z = k_PKZH.shape[1:3]
    q_RKMH = q_RLNH.reshape(R, L, K, N // K, H).transpose(0, 2, 1, 3, 4).reshape(R, K, -1, H)
    rows = q_RKMH.shape[2]
    # Whole registers of rows: 8 of 32 bits, or 16 of 16 bits.
    padded = -(-rows // 16) * 16
    q_RKMH = jnp.pad(q_RKMH, ((0, 0), (0, 0), (0, padded - rows), (0, 0)))
    scales = [x for x in (k_scale_PKZ, v_scale_PKZ) if x is not None]
    lists = page_list(pages_RM, length_R, Z)
    whole = pl.BlockSpec(memory_space=pl.ANY)
    heads = pl.BlockSpec((1, K, padded, H), lambda r, *_: (r, 0, 0, 0))
    o_RKMH = pl.pallas_call(
        partial(_kernel, group=N // K, scale=scale, soft_cap=soft_cap, precision=precision_of(q_RLNH.dtype)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(R,),
            in_specs=[heads, pl.BlockSpec((1, 1, words_RS.shape[1]), lambda r, *_: (r, 0, 0))]
            + [whole] * (2 + len(scales)),
            out_specs=heads,
            scratch_shapes=[
                pltpu.VMEM((K, padded, H), jnp.float32),
                pltpu.VMEM((K, padded, REGISTER_WIDTH), jnp.float32),
                pltpu.VMEM((K, padded, REGISTER_WIDTH), jnp.float32),
                pltpu.SemaphoreType.DMA((AHEAD + 1, 2 + len(scales))),
                *[pltpu.VMEM((AHEAD + 1, K, Z, H), x.dtype) for x in (k_PKZH, v_PKZH)],
                *[pltpu.VMEM((AHEAD + 1, K, Z), x.dtype) for x in scales],
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(q_RKMH.shape, q_RLNH.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(*lists, length_R, q_RKMH, words_RS.astype(jnp.int32)[:, None], k_PKZH, v_PKZH, *scales)
    o_RKLGH = o_RKMH[:, :, :rows].reshape(R, K, L, N // K, H)
    return o_RKLGH.transpose(0, 2, 1, 3, 4).reshape(R, L, N, H)


def page_list(
    pages_RM: Int[Array, "R M"], length_R: Int[Array, " R"], page_size: int
) -> tuple[Int[Array, " R*M"], Int[Array, " R+1"]]:
    """The live pages of all requests in order, and where each request's begin."""
    count_R = -(-length_R // page_size)
    base = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(count_R, dtype=jnp.int32)])
    index_M = jnp.arange(pages_RM.shape[1], dtype=jnp.int32)
    place_RM = jnp.where(index_M < count_R[:, None], base[:-1, None] + index_M, pages_RM.size)
    return jnp.zeros(pages_RM.size, jnp.int32).at[place_RM].set(pages_RM, mode="drop"), base


def _kernel(list_ref, base_ref, length_ref, q_ref, words_ref, *refs, group, scale, soft_cap, precision):
    count = (len(refs) - 5) // 2
    sources, o_ref, (acc_ref, m_ref, l_ref, semaphores) = refs[:count], refs[count], refs[count + 1 : count + 5]
    buffers = refs[count + 5 :]
    request = pl.program_id(0)
    K, M = q_ref.shape[1:3]
    Z = buffers[0].shape[2]
    total_pages = base_ref[pl.num_programs(0)]
    first, end, length = base_ref[request], base_ref[request + 1], length_ref[request]
    lane_M1 = lax.broadcasted_iota(jnp.int32, (M, 1), 0) // group

    def copies(page):
        slot = lax.rem(page, AHEAD + 1)
        return [
            pltpu.make_async_copy(source.at[list_ref[page]], buffer.at[slot], semaphores.at[slot, i])
            for i, (source, buffer) in enumerate(zip(sources, buffers))
        ]

    def fetch(page):
        @pl.when(page < total_pages)
        def _():
            for copy in copies(page):
                copy.start()

    @pl.when(request == 0)
    def _():
        for page in range(AHEAD):
            fetch(page)

    acc_ref[...] = jnp.zeros_like(acc_ref)
    m_ref[...] = jnp.full_like(m_ref, -jnp.inf)
    l_ref[...] = jnp.zeros_like(l_ref)

    def step(page, _):
        fetch(page + AHEAD)
        for copy in copies(page):
            copy.wait()
        slot, start = lax.rem(page, AHEAD + 1), (page - first) * Z
        here_1Z = start + lax.broadcasted_iota(jnp.int32, (1, Z), 1) < length
        here_Z1 = start + lax.broadcasted_iota(jnp.int32, (Z, 1), 0) < length
        word_1Z = words_ref[0, :, pl.ds(pl.multiple_of(start, Z), Z)]
        sees_MZ = (((word_1Z >> lane_M1) & 1) != 0) & here_1Z
        for head in range(K):
            k_ZH, v_ZH = (buffer[slot, head].astype(q_ref.dtype) for buffer in buffers[:2])
            s_MZ = _dot(q_ref[0, head], k_ZH, 1, precision) * scale
            if len(buffers) == 4:
                s_MZ *= buffers[2][slot, head : head + 1]
            if soft_cap is not None:
                s_MZ = soft_cap * jnp.tanh(s_MZ / soft_cap)
            # What lies behind a KV stream's end may be anything: neither its logits nor its values may count.
            s_MZ = jnp.where(sees_MZ, s_MZ, -jnp.inf)
            v_ZH = jnp.where(here_Z1, v_ZH, 0)
            m_ML = m_ref[head]
            m_new_ML = jnp.maximum(m_ML, s_MZ.max(1, keepdims=True))
            safe_ML = jnp.where(m_new_ML == -jnp.inf, 0.0, m_new_ML)
            p_MZ = jnp.exp(s_MZ - safe_ML[:, :1])
            shrink_ML = jnp.exp(m_ML - safe_ML)
            m_ref[head] = m_new_ML
            l_ref[head] = l_ref[head] * shrink_ML + p_MZ.sum(1, keepdims=True)
            if len(buffers) == 4:
                p_MZ *= jnp.where(here_1Z, buffers[3][slot, head : head + 1], 0.0)
            part_MH = _dot(p_MZ.astype(v_ZH.dtype), v_ZH, 0, precision)
            acc_ref[head] = acc_ref[head] * shrink_ML[:, :1] + part_MH
        return 0

    lax.fori_loop(first, end, step, 0)
    for head in range(K):
        l_ML = l_ref[head]
        o_ref[0, head] = (acc_ref[head] / jnp.where(l_ML == 0, 1.0, l_ML)[:, :1]).astype(o_ref.dtype)


def _dot(a, b, b_axis: int, precision):
    dimensions = (((1,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
