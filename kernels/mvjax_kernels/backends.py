"""The backends: their names, what each can serve, and the choice by platform."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels import tuning
from mvjax_kernels.xla import attention as xla_attention
from mvjax_kernels.xla import decode_attention as xla_decode
from mvjax_kernels.xla import paged_attention as xla_paged
from mvjax_kernels.xla.page_blocks import PagedStreams

BACKENDS = ("auto", "xla", "tpu", "gpu", "tpu_interpret")
"""Names that `backend` may have. "auto" takes "tpu" on a TPU, "gpu" on an NVIDIA GPU with jax-triton installed, else
"xla"; "tpu_interpret" runs the TPU kernels step by step on any platform, for tests."""

HEADS = (64, 128, 256)
logger = logging.getLogger("mvjax_kernels")


def device() -> jax.Device:
    """The device that a program is traced for: JAX's default one, which may be a described chip that is not here."""
    chosen = jax.config.jax_default_device  # pyrefly: ignore[missing-attribute]  (JAX makes its options at run time)
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]


def platform() -> str:
    """ "cpu", "tpu" or "gpu" (NVIDIA's), or what else JAX calls it."""
    name = device().platform
    return "gpu" if name == "cuda" else name


class Pages(NamedTuple):
    """What decides whether a kernel can read a KV stream."""

    size: int | None
    """Slots of a page; None: it is contiguous."""
    dtype: jnp.dtype


def refusal(backend: str, head: int, pages: Pages | None = None) -> str | None:
    """Why a backend cannot serve heads of that size, and pages where it is to decode, here; None if it can."""
    if backend == "xla":
        return None
    if head not in HEADS:
        return f"it serves heads of {', '.join(map(str, HEADS))}, not {head}"
    if pages is not None:
        if pages.size is None:
            return "it decodes over pages only (paged_decode_attention)"
        slots = 16 if backend == "gpu" else 128
        if pages.size % slots:
            return f"it reads pages of a multiple of {slots} slots, not {pages.size}"
        if backend != "gpu" and pages.dtype == jnp.float16:
            return "no TPU multiplies float16: keep the pages in bfloat16"
        if backend == "gpu" and pages.dtype == jnp.float8_e4m3fn and (_compute_capability() or 90) < 89:
            return "this GPU has no float8_e4m3fn: quantise to float8_e5m2 or int8"
    if backend == "tpu" and platform() != "tpu":
        return f'it needs a TPU, the program is traced for {platform()!r} ("tpu_interpret" runs it there, slowly)'
    if backend == "gpu":
        if platform() != "gpu":
            return f"it needs an NVIDIA GPU, the program is traced for {platform()!r}"
        if importlib.util.find_spec("jax_triton") is None:
            return "jax-triton is not installed (pip install mvjax[gpu])"
    return None


def pick(backend: str, head: int, pages: Pages | None = None) -> str:
    """The backend that serves heads of a size, and pages where it is to decode.

    Raises:
        ValueError: an unknown name, or one that cannot serve the call.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} does not exist; use one of {', '.join(map(repr, BACKENDS))}")
    if backend == "auto":
        wanted = {"tpu": "tpu", "gpu": "gpu"}.get(platform(), "xla")
        reason = refusal(wanted, head, pages)
        _say(wanted, reason)
        return wanted if reason is None else "xla"
    if reason := refusal(backend, head, pages):
        raise ValueError(f"backend={backend!r} cannot serve this call: {reason}")
    return backend


@functools.cache
def _say(wanted: str, reason: str | None) -> None:
    """Once a process and choice."""
    if reason is None:
        logger.log(logging.DEBUG if wanted == "xla" else logging.INFO, 'attention backend: "%s"', wanted)
    else:
        logger.warning('attention backend: "xla", for "%s" cannot serve: %s', wanted, reason)


def attention(
    backend: str,
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_BC: Int[Array, "B C"],
    scale: float,
    soft_cap: float | None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Output and log-sum-exp, by the backend that `pick` names, with the tiles of its table."""
    (_, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    chosen, chunks, dtype = pick(backend, H), q_offset_BC.shape[1], q_BTNH.dtype
    hide = (hide_start_BES, hide_end_BES, q_offset_BC)
    if chosen == "xla":
        rows, keys = xla_attention.tile_shape(N // K, T, S, chunks)
        return xla_attention.attention(q_BTNH, k_BSKH, v_BSKH, *hide, scale, soft_cap, rows, keys)
    if chosen == "gpu":
        from mvjax_kernels.gpu import attention as gpu_attention

        capability = _compute_capability()
        tiles = tuning.gpu_tiles(H, dtype, capability)
        if chunks > 1:
            tuning.check_chunks(T // chunks, *(kernel.rows for kernel in tiles))
        setting = gpu_attention.Setting(scale, soft_cap, tiles, capability)
        return gpu_attention.attention(q_BTNH, k_BSKH, v_BSKH, *hide, setting)
    from mvjax_kernels.tpu import attention as tpu_attention

    if dtype == jnp.float16:  # No TPU multiplies it.
        q_BTNH, k_BSKH, v_BSKH = (x.astype(jnp.float32) for x in (q_BTNH, k_BSKH, v_BSKH))
    levels, size = hide_start_BES.shape[1], q_BTNH.dtype.itemsize
    rows, block = tuning.tpu_tiles(_chip(chosen), N // K, T // chunks, S, H, size, levels)
    if chunks > 1:
        tuning.check_chunks(T // chunks, rows)
    interpret = chosen == "tpu_interpret"
    o_BTNH, lse_BTN = tpu_attention.attention(q_BTNH, k_BSKH, v_BSKH, *hide, scale, soft_cap, rows, block, interpret)
    return o_BTNH.astype(dtype), lse_BTN


def decode_attention(
    backend: str,
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """Over contiguous KV streams: XLA's."""
    if backend != "auto":
        pick(backend, q_RLNH.shape[3], Pages(None, k_RKSH.dtype))
    return xla_decode.decode_attention(q_RLNH, k_RKSH, v_RKSH, words_RS, scale, soft_cap)


def paged_decode_attention(
    backend: str,
    q_RLNH: Float[Array, "R L N H"],
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    pages_RM: Int[Array, "R M"],
    length_R: Int[Array, " R"],
    words_RS: Integer[Array, "R S"],
    k_scale_PKZ: Float[Array, "P K Z"] | None,
    v_scale_PKZ: Float[Array, "P K Z"] | None,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "R L N H"]:
    """Over pages, by the backend that `pick` names."""
    (R, L, N, H), (K, Z), most = q_RLNH.shape, k_PKZH.shape[1:3], pages_RM.shape[1]
    chosen, rows = pick(backend, H, Pages(Z, k_PKZH.dtype)), L * N // K
    pages = (k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, pages_RM, length_R, words_RS)
    if chosen == "xla":
        slots, together = xla_decode.block_sizes(platform(), R)
        streams = PagedStreams(*pages[:-1])
        return xla_decode.paged_decode_attention(q_RLNH, streams, words_RS, scale, soft_cap, slots, together)
    if chosen == "gpu":
        from mvjax_kernels.gpu import decode_attention as gpu_decode

        tiles = tuning.gpu_decode_tiles(rows, H, q_RLNH.dtype, R * K, Z, most)
        return gpu_decode.decode_attention(q_RLNH, *pages, scale, soft_cap, tiles, _compute_capability())
    from mvjax_kernels.tpu import decode_attention as tpu_decode

    tuning.check_decode_fits(_chip(chosen), K, Z, H, k_PKZH.dtype.itemsize, rows)
    tuning.check_table_fits(R, most)
    return tpu_decode.decode_attention(q_RLNH, *pages, scale, soft_cap, chosen == "tpu_interpret")


def paged_attention(
    backend: str,
    q_BTNH: Float[Array, "B T N H"],
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    pages_BM: Int[Array, "B M"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_B: Int[Array, " B"],
    length_B: Int[Array, " B"],
    k_scale_PKZ: Float[Array, "P K Z"] | None,
    v_scale_PKZ: Float[Array, "P K Z"] | None,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "B T N H"]:
    """Of chunks of prompts over pages: XLA's."""
    T, N, H = q_BTNH.shape[1:]
    if backend != "auto":
        pick(backend, H, Pages(k_PKZH.shape[2], k_PKZH.dtype))
    rows, slots = xla_paged.tile_shape(platform(), N // k_PKZH.shape[1], T)
    streams = PagedStreams(k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, pages_BM, q_offset_B + length_B)
    return xla_paged.paged_attention(
        q_BTNH, streams, hide_start_BES, hide_end_BES, q_offset_B, scale, soft_cap, rows, slots
    )


def write_paged_kv(
    backend: str,
    pages: Sequence[Shaped[Array, "P K Z ..."]],
    news: Sequence[Shaped[Array, "R L K ..."]],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
) -> tuple[Shaped[Array, "P K Z ..."], ...]:
    """New slots of keys, values and, where they have any, their scales; by a kernel on a TPU and by XLA's scatter
    elsewhere."""
    chosen = pick(backend, pages[0].shape[3], Pages(pages[0].shape[2], pages[0].dtype))
    if chosen in ("xla", "gpu"):
        return xla_decode.write_paged_kv(pages, news, pages_RM, start_R)
    from mvjax_kernels.tpu import write_paged_kv as tpu_write

    tuning.check_table_fits(*pages_RM.shape)
    return tpu_write.write_paged_kv(pages, news, pages_RM, start_R, chosen == "tpu_interpret")


def _chip(chosen: str) -> tuning.TpuChip:
    return tuning.tpu_chip(device() if chosen == "tpu" else None)


def _compute_capability() -> int | None:
    """Of the GPU that a program is compiled for; None lets jax-triton ask the one that is here."""
    stated = getattr(device(), "compute_capability", None)
    return None if stated is None else round(10 * float(stated))
