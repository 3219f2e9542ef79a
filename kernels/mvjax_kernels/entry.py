"""The one entry to every backend: checks the call while it is traced, then picks who serves it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from mvjax_kernels import xla_attention, xla_stream

BACKENDS = ("auto", "xla")
"""Names that `backend` may have; "auto" picks by platform (today every platform is served by "xla")."""

FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    *,
    q_offset_B: Int[Array, " B"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Float[Array, "B T N H"] | tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Multiverse Attention (arXiv 2506.09991, section 4) for training and prefill; differentiable in q, k, v.

    Query row i (global number: q_offset + its index) sees key j iff i >= j and no level hides j from i, that is
    hide_start[e, j] <= i < hide_end[e, j] for no e. A row that sees no key yields 0, log-sum-exp -inf, gradient 0.
    Nothing of size T x S is ever made; tiles without a visible pair cost nothing.

    Args:
        q_BTNH: queries; N a multiple of K, query head n reads kv head n // (N // K).
        k_BSKH, v_BSKH: keys and values, dtype of q; float32, bfloat16 or float16, accumulated in float32.
        hide_start_BES, hide_end_BES: int32; level 0 hides a key from all rows after its document, level d from the
            rest of the block whose path encloses it at depth d. start >= end is an unused level; INT32_MAX hides to
            the end.
        q_offset_B: int32, global row of each sequence's first query (may be traced); 0 by default.
        scale: factor of the logits; H ** -0.5 by default.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap) where given.
        backend: one of `BACKENDS`.
        return_lse: also return the log-sum-exp of each row's (scaled, capped) visible logits, float32, natural log.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    _pick(backend)
    _check_attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B)
    scale, soft_cap = _check_scalars(scale, soft_cap, q_BTNH.shape[-1])
    if q_offset_B is None:
        q_offset_B = jnp.zeros(q_BTNH.shape[0], jnp.int32)
    tile = xla_attention.tile_shape(q_BTNH.shape[2] // k_BSKH.shape[2], q_BTNH.shape[1], k_BSKH.shape[1])
    o_BTNH, lse_BTN = xla_attention.attention(
        q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B, scale, soft_cap, *tile
    )
    return (o_BTNH, lse_BTN) if return_lse else o_BTNH


def stream_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
) -> Float[Array, "R L N H"]:
    """Decode attention of all branches of each request over the request's one key/value stream.

    Lane l of request r (one row of a running branch) sees slot s iff bit l of words[r, s] is set. The stream is read
    once for all lanes: one dense product per request and kv head, the lanes times the query group being its rows.
    A lane that sees no slot yields 0. Not differentiable by intent: it only serves decoding.

    Args:
        q_RLNH: queries, at most 32 lanes; N a multiple of K.
        k_RKSH, v_RKSH: the streams, dtype of q.
        words_RS: int32 or uint32 visibility words.
        scale, soft_cap, backend: as `attention`.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    _pick(backend)
    _check_stream(q_RLNH, k_RKSH, v_RKSH, words_RS)
    scale, soft_cap = _check_scalars(scale, soft_cap, q_RLNH.shape[-1])
    return xla_stream.stream_attention(q_RLNH, k_RKSH, v_RKSH, words_RS, scale, soft_cap)


def _pick(backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} does not exist; use one of {', '.join(map(repr, BACKENDS))}")
    return "xla"


def _check_shape(name: str, array: jax.Array, letters: str, sizes: dict[str, int]) -> None:
    """Fills `sizes` with the letters seen for the first time and compares the others."""
    if array.ndim != len(letters):
        raise ValueError(f"{name} needs {len(letters)} dimensions [{', '.join(letters)}], got shape {array.shape}")
    for letter, size in zip(letters, array.shape):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(f"{name} has shape {array.shape}, but {letter} is {sizes[letter]} in the arguments before")
    if 0 in array.shape:
        raise ValueError(f"{name} has an empty dimension: shape {array.shape}")


def _check_floats(**arrays: jax.Array) -> None:
    dtypes = {name: array.dtype for name, array in arrays.items()}
    for name, dtype in dtypes.items():
        if dtype not in FLOATS:
            raise TypeError(f"{name} must be float32, bfloat16 or float16, got {dtype}")
    if len(set(dtypes.values())) > 1:
        raise TypeError("q, k and v must have one dtype, got " + ", ".join(f"{n} {d}" for n, d in dtypes.items()))


def _check_heads(sizes: dict[str, int]) -> None:
    if sizes["N"] % sizes["K"]:
        raise ValueError(f"{sizes['N']} query heads are no multiple of {sizes['K']} kv heads")


def _check_attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_B) -> None:
    sizes: dict[str, int] = {}
    _check_shape("q", q_BTNH, "BTNH", sizes)
    _check_shape("k", k_BSKH, "BSKH", sizes)
    _check_shape("v", v_BSKH, "BSKH", sizes)
    _check_shape("hide_start", hide_start_BES, "BES", sizes)
    _check_shape("hide_end", hide_end_BES, "BES", sizes)
    _check_floats(q=q_BTNH, k=k_BSKH, v=v_BSKH)
    _check_heads(sizes)
    for name, array in (("hide_start", hide_start_BES), ("hide_end", hide_end_BES), ("q_offset", q_offset_B)):
        if array is not None and array.dtype != jnp.int32:
            raise TypeError(f"{name} must be int32, got {array.dtype}")
    if q_offset_B is not None:
        _check_shape("q_offset", q_offset_B, "B", sizes)


def _check_stream(q_RLNH, k_RKSH, v_RKSH, words_RS) -> None:
    sizes: dict[str, int] = {}
    _check_shape("q", q_RLNH, "RLNH", sizes)
    _check_shape("k", k_RKSH, "RKSH", sizes)
    _check_shape("v", v_RKSH, "RKSH", sizes)
    _check_shape("words", words_RS, "RS", sizes)
    _check_floats(q=q_RLNH, k=k_RKSH, v=v_RKSH)
    _check_heads(sizes)
    if words_RS.dtype not in (jnp.int32, jnp.uint32):
        raise TypeError(f"words must be int32 or uint32, got {words_RS.dtype}")
    if sizes["L"] > 32:
        raise ValueError(f"{sizes['L']} lanes a request, but a visibility word has 32 bits")


def _check_scalars(scale: float | None, soft_cap: float | None, head: int) -> tuple[float, float | None]:
    scale = head**-0.5 if scale is None else float(scale)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    if soft_cap is not None and not (math.isfinite(soft_cap) and soft_cap > 0):
        raise ValueError(f"soft_cap must be positive and finite, got {soft_cap}")
    return scale, None if soft_cap is None else float(soft_cap)
