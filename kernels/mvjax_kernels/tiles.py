"""Which tiles hold a visible pair: decided from minima and maxima of the hidden intervals per key block.

The rows that see key j are those from j on, less at most E hidden intervals: at most E + 1 gaps between intervals.
The gap that ends where level d's interval starts holds the rows of j's ancestor at depth d that come after the block
at depth d + 1. The keys of one block that still have such rows after the block have the *same* ancestor there
(segments nest), hence the same end of the gap, so the union of their gaps is an interval too: the smallest start and
the largest end describe it exactly. A block of keys is thus summed up by E + 1 row intervals, whatever its size.
For intervals that do not come from a tree the same numbers are an outer bound: a tile may be visited for nothing, but
none is missed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

INT32_MAX = 2**31 - 1
"""End of an interval that hides to the end, whatever the number of rows."""


class TileSpans(NamedTuple):
    """Summary of every block of keys; C = number of key blocks.

    A row at or after a key block's end sees one of its keys iff it lies in one of the spans.
    """

    start_BEC: Int[Array, "B E1 C"]
    """First row of each span; E + 1 spans a block, empty ones have start >= end."""

    end_BEC: Int[Array, "B E1 C"]
    """End of each span (exclusive)."""

    hide_first_BEC: Int[Array, "B E C"]
    """First row that each level hides from any key of the block."""

    hide_last_BEC: Int[Array, "B E C"]
    """End of the rows that each level hides from any key of the block."""

    block_start_C: Int[Array, " C"]
    """First key of each block."""

    block_end_C: Int[Array, " C"]
    """End of each block (exclusive; the last block ends with the keys)."""


def tile_spans(hide_start_BES: Int[Array, "B E S"], hide_end_BES: Int[Array, "B E S"], block_k: int) -> TileSpans:
    """Sums up blocks of `block_k` keys: O(E^2 S) work, O(E S / block_k) numbers, on the device.

    Args:
        hide_start_BES: first hidden row of each key and level (rows in global numbering).
        hide_end_BES: end of the hidden rows; start >= end is an unused level, INT32_MAX hides to the end.
        block_k: keys per block; the last block may be shorter.
    """
    levels, keys = hide_start_BES.shape[1:]
    blocks = -(-keys // block_k)
    used_BES = hide_start_BES < hide_end_BES
    # Gap d ends where interval d starts; the last one, after every interval, never ends.
    gap_end_BES = jnp.where(used_BES, hide_start_BES, 0)
    gap_end_BES = jnp.pad(gap_end_BES, ((0, 0), (0, 1), (0, 0)), constant_values=INT32_MAX)
    gap_start_BES = jnp.zeros_like(gap_end_BES)
    for level in range(levels):
        start_BS, end_BS = hide_start_BES[:, level, None], hide_end_BES[:, level, None]
        before = used_BES[:, level, None] & (start_BS < gap_end_BES)
        gap_start_BES = jnp.maximum(gap_start_BES, jnp.where(before, end_BS, 0))
    block_start_C = jnp.arange(blocks, dtype=jnp.int32) * block_k
    block_end_C = jnp.minimum(block_start_C + block_k, keys)

    def blocked(x_BES, fill):
        x_BES = jnp.pad(x_BES, ((0, 0), (0, 0), (0, blocks * block_k - keys)), constant_values=fill)
        return x_BES.reshape(*x_BES.shape[:2], blocks, block_k)

    start = jnp.maximum(blocked(gap_start_BES, INT32_MAX), block_end_C[:, None])
    end = blocked(gap_end_BES, 0)
    live = start < end
    return TileSpans(
        jnp.where(live, start, INT32_MAX).min(-1),
        jnp.where(live, end, 0).max(-1),
        blocked(jnp.where(used_BES, hide_start_BES, INT32_MAX), INT32_MAX).min(-1),
        blocked(jnp.where(used_BES, hide_end_BES, 0), 0).max(-1),
        block_start_C,
        block_end_C,
    )


def classify(
    spans: TileSpans, first_BQ: Int[Array, "B Q"], last_BQ: Int[Array, "B Q"]
) -> tuple[Bool[Array, "B Q C"], Bool[Array, "B Q C"]]:
    """For tiles of query rows [first, last): which key blocks they see, and which in full.

    Returns:
        visible: the tile holds a visible pair. full: every pair in it is visible; may miss one, never claim one.
    """
    first, last = first_BQ[:, None, :, None], last_BQ[:, None, :, None]
    start, end, hide_first, hide_last = (x[:, :, None] for x in spans[:4])
    block_start_C, block_end_C = spans.block_start_C, spans.block_end_C
    after = first >= block_end_C
    seen_BEQC = jnp.maximum(first, start) < jnp.minimum(last, end)
    # Tiles that touch the diagonal hold a token and itself.
    visible_B1QC = jnp.where(after, seen_BEQC.any(1, keepdims=True), last > block_start_C) & (first < last)
    clear_BEQC = (hide_last <= first) | (hide_first >= last)
    # The last block may hold padding behind the keys, which only the mask hides.
    whole_C = jnp.arange(block_end_C.shape[-1]) < block_end_C.shape[-1] - 1
    full_B1QC = visible_B1QC & (first >= block_end_C - 1) & clear_BEQC.all(1, keepdims=True) & whole_C
    return visible_B1QC[:, 0], full_B1QC[:, 0]


def visible_tiles(
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    query_length: int,
    *,
    block_q: int,
    block_k: int,
    q_offset_B: Int[Array, " B"] | None = None,
) -> tuple[Bool[Array, "B Q C"], Bool[Array, "B Q C"]]:
    """The tiles that attention visits, and those of them that need no mask: a meter for tests and benchmarks.

    Args:
        hide_start_BES, hide_end_BES: hidden intervals, as `attention` takes them.
        query_length: number of query rows T.
        block_q, block_k: rows and keys per tile; a last tile may be smaller.
        q_offset_B: global row of each sequence's first query, 0 by default.
    """
    if q_offset_B is None:
        q_offset_B = jnp.zeros(hide_start_BES.shape[0], jnp.int32)
    starts_Q = jnp.arange(-(-query_length // block_q), dtype=jnp.int32) * block_q
    ends_Q = jnp.minimum(starts_Q + block_q, query_length)
    spans = tile_spans(hide_start_BES, hide_end_BES, block_k)
    return classify(spans, q_offset_B[:, None] + starts_Q, q_offset_B[:, None] + ends_Q)
