"""The one entry to every backend: checks the call while it is traced, then hands it to the backend that serves it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Shaped

from mvjax_kernels import backends, checks
from mvjax_kernels.quantised import quantise


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    *,
    q_offset: Int[Array, " B"] | Int[Array, "B C"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
    check_values: bool = False,
) -> Float[Array, "B T N H"] | tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Multiverse Attention (arXiv 2506.09991, section 4) for training and prefill; differentiable in q, k, v.

    Query row i (global number: q_offset + its index in its chunk) sees key j iff i >= j and no level hides j from i,
    that is hide_start[e, j] <= i < hide_end[e, j] for no e. A row that sees no key yields 0, log-sum-exp -inf, gradient
    0. Nothing of size T x S is ever made; tiles without a visible pair cost nothing.

    Args:
        q_BTNH: queries; N a multiple of K, query head n reads kv head n // (N // K).
        k_BSKH, v_BSKH: keys and values, dtype of q; float32, bfloat16 or float16, accumulated in float32.
        hide_start_BES, hide_end_BES: int32; level 0 hides a key from all rows after its document, level d from the
            rest of the block whose path encloses it at depth d. start == end is an unused level; INT32_MAX hides to
            the end.
        q_offset: int32, global row of each sequence's first query (may be traced), 0 by default; or [B, C]: the queries
            are C chunks of equal length, one behind the other, each with its own first row.
        scale: factor of the logits; H ** -0.5 by default.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap) where given.
        backend: one of `BACKENDS`; one that cannot serve the call says why.
        check_values: also check what is only known on the device (intervals within the keys, not inverted), with
            `jax.experimental.checkify`: the caller must functionalise and throw.
        return_lse: also return the log-sum-exp of each row's (scaled, capped) visible logits, float32, natural log.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    checks.check_attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset)
    scale, soft_cap = checks.check_scalars(scale, soft_cap, q_BTNH.shape[-1])
    batch = q_BTNH.shape[0]
    q_offset_BC = jnp.zeros((batch, 1), jnp.int32) if q_offset is None else jnp.reshape(q_offset, (batch, -1))
    if check_values:
        checks.check_intervals(hide_start_BES, hide_end_BES)
    o_BTNH, lse_BTN = backends.attention(
        backend, q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset_BC, scale, soft_cap
    )
    return (o_BTNH, lse_BTN) if return_lse else o_BTNH


def decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RKSH: Float[Array, "R K S H"],
    v_RKSH: Float[Array, "R K S H"],
    words_RS: Integer[Array, "R S"],
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
) -> Float[Array, "R L N H"]:
    """Decode attention of all branches of each request over the request's one KV stream.

    Lane l of request r (one row of a running branch) sees slot s iff bit l of words[r, s] is set. Keys and values are
    read once for all lanes: one dense product per request and kv head, the lanes times the query group being its rows.
    A lane that sees no slot yields 0. There is no derivative: it serves decoding only.

    Args:
        q_RLNH: queries, at most 32 lanes; N a multiple of K.
        k_RKSH, v_RKSH: the KV streams, dtype of q.
        words_RS: int32 or uint32 visibility words.
        scale, soft_cap: as `attention`.
        backend: "xla", which "auto" means here on any platform: the kernels read pages.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    checks.check_decode(q_RLNH, k_RKSH, v_RKSH, words_RS)
    scale, soft_cap = checks.check_scalars(scale, soft_cap, q_RLNH.shape[-1])
    return backends.decode_attention(backend, q_RLNH, k_RKSH, v_RKSH, words_RS, scale, soft_cap)


def paged_decode_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    pages_RM: Int[Array, "R M"],
    length_R: Int[Array, " R"],
    words_RS: Integer[Array, "R S"],
    *,
    k_scale_PKZ: Float[Array, "P K Z"] | None = None,
    v_scale_PKZ: Float[Array, "P K Z"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
    check_values: bool = False,
) -> Float[Array, "R L N H"]:
    """`decode_attention` over KV streams in pages: slot s of request r is slot s % Z of page pages[r, s // Z].

    Every live page is read once a step for all lanes of its request; pages behind a stream's end are not touched, and
    what they or the last page's unused slots hold does not matter.

    Args:
        q_RLNH: queries, at most 32 lanes; N a multiple of K.
        k_PKZH, v_PKZH: P pages of Z slots for each kv head; dtype of q, or int8 or float8 with scales.
        pages_RM: page table, M pages a request at most (S = M * Z); entries behind the end may be anything.
        length_R: live slots of each KV stream.
        words_RS: int32 or uint32 visibility words.
        k_scale_PKZ, v_scale_PKZ: factor of each slot and head of quantised pages.
        scale, soft_cap, backend, check_values: as `attention`.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    checks.check_paged(q_RLNH, k_PKZH, v_PKZH, pages_RM, length_R, words_RS, k_scale_PKZ, v_scale_PKZ)
    scale, soft_cap = checks.check_scalars(scale, soft_cap, q_RLNH.shape[-1])
    if check_values:
        checks.check_pages(pages_RM, length_R, k_PKZH.shape[2], k_PKZH.shape[0])
    pages = (k_PKZH, v_PKZH, pages_RM, length_R, words_RS, k_scale_PKZ, v_scale_PKZ)
    return backends.paged_decode_attention(backend, q_RLNH, *pages, scale, soft_cap)


def paged_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    pages_BM: Int[Array, "B M"],
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_B: Int[Array, " B"],
    length_B: Int[Array, " B"],
    *,
    k_scale_PKZ: Float[Array, "P K Z"] | None = None,
    v_scale_PKZ: Float[Array, "P K Z"] | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
    check_values: bool = False,
) -> Float[Array, "B T N H"]:
    """`attention` for prefill over KV streams in pages: a chunk of each of several prompts, keys and values written.

    Query i of request b stands at slot q_offset[b] + i. It sees that request's slots up to its own, but for those whose
    hidden interval (rows are slots) holds it. Queries from length[b] on are padding and yield 0; a request of length 0
    costs nothing. Only pages up to a chunk's end are read, and what they hold behind it does not matter. There is no
    derivative.

    Args:
        q_BTNH: queries; N a multiple of K.
        k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ: as `paged_decode_attention`.
        pages_BM: page table, M pages a request at most (S = M * Z); entries behind a chunk's end may be anything.
        hide_start_BES, hide_end_BES: int32 intervals, as `attention`; E = 0: nothing is hidden.
        q_offset_B: slot of each request's first query.
        length_B: queries of each request, up to T.
        scale, soft_cap, check_values: as `attention`.
        backend: as `attention`; whichever it is, plain XLA computes.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    intervals, chunks, scales = (hide_start_BES, hide_end_BES), (q_offset_B, length_B), (k_scale_PKZ, v_scale_PKZ)
    checks.check_paged_attention(q_BTNH, k_PKZH, v_PKZH, pages_BM, *intervals, *chunks, *scales)
    scale, soft_cap = checks.check_scalars(scale, soft_cap, q_BTNH.shape[-1])
    if check_values:
        checks.check_pages(pages_BM, q_offset_B + length_B, k_PKZH.shape[2], k_PKZH.shape[0])
        if hide_start_BES.shape[1]:
            checks.check_intervals(*intervals)
    return backends.paged_attention(
        backend, q_BTNH, k_PKZH, v_PKZH, pages_BM, *intervals, *chunks, *scales, scale, soft_cap
    )


def write_paged_kv(
    k_PKZH: Shaped[Array, "P K Z H"],
    v_PKZH: Shaped[Array, "P K Z H"],
    new_k_RLKH: Float[Array, "R L K H"],
    new_v_RLKH: Float[Array, "R L K H"],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
    *,
    k_scale_PKZ: Float[Array, "P K Z"] | None = None,
    v_scale_PKZ: Float[Array, "P K Z"] | None = None,
    backend: str = "auto",
) -> tuple[Shaped[Array, "P K Z ..."], ...]:
    """The pages with new keys and values: lane l of request r goes to slot start[r] + l. In place where donated.

    No two requests may write to one page, but for pages whose content does not matter. Slots beyond the table are
    dropped. Keys and values must be finite (a TPU moves them by products with ones and zeros).

    Args:
        k_PKZH, v_PKZH, pages_RM: as `paged_decode_attention`; with scales int8.
        new_k_RLKH, new_v_RLKH: dtype of the pages, or any floating-point numbers where those are int8: each slot of
            each head is rounded by itself, to its largest magnitude over 127.
        start_R: first slot of each request.
        k_scale_PKZ, v_scale_PKZ: factor of each slot and head of int8 pages.
        backend: as `attention`.

    Returns:
        Keys and values, and where they are int8 the scales of both.

    Raises:
        TypeError, ValueError: while tracing, naming the offending value.
    """
    scales = (k_scale_PKZ, v_scale_PKZ)
    checks.check_write(k_PKZH, v_PKZH, new_k_RLKH, new_v_RLKH, pages_RM, start_R, *scales)
    news = (new_k_RLKH, new_v_RLKH)
    if k_scale_PKZ is None or v_scale_PKZ is None:
        return backends.write_paged_kv(backend, (k_PKZH, v_PKZH), news, pages_RM, start_R)
    (k_RLKH, k_scale_RLK), (v_RLKH, v_scale_RLK) = map(quantise, news)
    news = (k_RLKH, v_RLKH, k_scale_RLK, v_scale_RLK)
    return backends.write_paged_kv(backend, (k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ), news, pages_RM, start_R)
