"""Multiverse Attention for NVIDIA GPUs: the Triton kernels called through jax-triton. Needs the `gpu` extra."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax_triton
import numpy as np
from jaxtyping import Array, Float, Int

from mvjax_kernels.gpu import attention_kernels
from mvjax_kernels.residuals import named
from mvjax_kernels.tiles import run_lists, runs_per_line, tile_rows
from mvjax_kernels.tuning import GpuTable, GpuTiles


class Setting(NamedTuple):
    """What is fixed while tracing."""

    scale: float
    soft_cap: float | None
    tiles: GpuTable
    compute_capability: int | None
    """Of the GPU to compile for, 90 for 9.0; None asks the one that is there."""


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_BC: Int[Array, "B C"],
    setting: Setting,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """See `mvjax_kernels.attention`; the arguments are checked there."""
    return _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, setting)[0]


def _call(kernel, setting: Setting, tiles: GpuTiles, grid, q_BTNH, k_BSKH, levels: int, args, outs):
    (_, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    return jax_triton.triton_call(
        *args,
        np.float32(setting.scale),
        np.float32(setting.soft_cap or 1.0),
        kernel=kernel,
        out_shape=[jax.ShapeDtypeStruct(out.shape, dtype) for out, dtype in outs],
        grid=grid,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        compute_capability=setting.compute_capability,
        T=T,
        S=S,
        N=N,
        K=K,
        H=H,
        E=levels,
        RUNS=runs_per_line(levels),
        ROWS=tiles.rows,
        BLOCK=tiles.block,
        CAP=setting.soft_cap is not None,
    )


def _firsts(q_offset_BC, length: int, tiles: GpuTiles):
    """First row of each tile of queries, [B, tiles]."""
    return tile_rows(q_offset_BC, length, tiles.rows)[0]


def _forward(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, setting: Setting):
    B, T, N, _ = q_BTNH.shape
    tiles = setting.tiles.forward
    by_rows, _ = run_lists(hide_start_BES, hide_end_BES, q_offset_BC, T, tiles.rows, tiles.block)
    o_BTNH, lse_BTN = _call(
        attention_kernels.forward,
        setting,
        tiles,
        (-(-T // tiles.rows), N, B),
        q_BTNH,
        k_BSKH,
        hide_start_BES.shape[1],
        (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, _firsts(q_offset_BC, T, tiles), *by_rows),
        [(q_BTNH, q_BTNH.dtype), (q_BTNH[..., 0], jnp.float32)],
    )
    o_BTNH, lse_BTN = named(o_BTNH), named(lse_BTN)
    saved = (q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN)
    return (o_BTNH, lse_BTN), saved


def _backward(setting: Setting, saved, gradients):
    q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, o_BTNH, lse_BTN = saved
    do_BTNH, dlse_BTN = gradients
    (B, T, N, _), (S, K), levels = q_BTNH.shape, k_BSKH.shape[1:3], hide_start_BES.shape[1]
    # d logit = p * (dp - sum(do * o) + dlse); rows that see no key have no pair, whatever their numbers.
    shift_BTN = (do_BTNH.astype(jnp.float32) * o_BTNH.astype(jnp.float32)).sum(-1) - dlse_BTN
    args = (q_BTNH, k_BSKH, v_BSKH, do_BTNH, jnp.where(lse_BTN == -jnp.inf, 0.0, lse_BTN), shift_BTN)
    hide = hide_start_BES, hide_end_BES
    tiles = setting.tiles.dq
    by_rows, _ = run_lists(*hide, q_offset_BC, T, tiles.rows, tiles.block)
    where = *hide, _firsts(q_offset_BC, T, tiles)
    grid, outs = (-(-T // tiles.rows), N, B), [(q_BTNH, q_BTNH.dtype)]
    kernel = attention_kernels.backward_dq
    (dq_BTNH,) = _call(kernel, setting, tiles, grid, q_BTNH, k_BSKH, levels, (*args, *where, *by_rows), outs)
    tiles = setting.tiles.dkv
    _, by_keys = run_lists(*hide, q_offset_BC, T, tiles.rows, tiles.block)
    where = *hide, _firsts(q_offset_BC, T, tiles)
    grid, outs = (-(-S // tiles.block), K, B), [(k_BSKH, k_BSKH.dtype), (v_BSKH, v_BSKH.dtype)]
    kernel = attention_kernels.backward_dkv
    dk_BSKH, dv_BSKH = _call(kernel, setting, tiles, grid, q_BTNH, k_BSKH, levels, (*args, *where, *by_keys), outs)
    return dq_BTNH, dk_BSKH, dv_BSKH, None, None, None


attention.defvjp(_forward, _backward)
