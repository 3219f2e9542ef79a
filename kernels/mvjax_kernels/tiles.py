"""Which tiles hold a visible pair: decided from minima and maxima of the hidden intervals per key block.

The rows that see key j are those from j on, less at most E hidden intervals: at most E + 1 gaps between intervals.
The gap that ends where level d's interval starts holds the rows of j's ancestor at depth d that come after the block
at depth d + 1. The keys of one block that still have such rows after the block have the *same* ancestor there
(segments nest), hence the same end of the gap, so the union of their gaps is an interval too: the smallest start and
the largest end describe it exactly. A block of keys is thus summed up by E + 1 row intervals, at any size.
For intervals that do not come from a tree the same numbers are an outer bound: a tile may be visited for nothing, but
none is missed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

INT32_MAX = 2**31 - 1
"""End of an interval that hides to the end of the rows, however many there are."""


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


def tile_rows(q_offset_BC: Int[Array, "B C"], length: int, rows: int) -> tuple[Int[Array, "B Q"], Int[Array, "B Q"]]:
    """First row of each tile of queries, and the end of its rows.

    Args:
        q_offset_BC: row of the first query of each of C chunks of equal length, which lie one behind the other.
        length: number of queries, those of all chunks.
        rows: queries per tile; divides the chunks if there are several.
    """
    chunk = length // q_offset_BC.shape[1]
    start_Q = jnp.arange(-(-length // rows), dtype=jnp.int32) * rows
    ahead_BQ = q_offset_BC[:, start_Q // chunk] - start_Q // chunk * chunk
    return ahead_BQ + start_Q, ahead_BQ + jnp.minimum(start_Q + rows, length)


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


class TileRuns(NamedTuple):
    """The blocks that each line of tiles visits, in order, as runs of neighbours of one kind; empty runs come last.

    A line is a tile of query rows (its blocks are keys) or a block of keys (its blocks are tiles of rows). In a tree
    the visible tiles of a line form at most E + 1 runs, and those visible in full at most E + 1: of the keys before a
    tile, a level hides or hides in part only one stretch, from its ancestor's block to where that ancestor begins.
    Hence at most 3 (E + 1) runs of one kind, at any length.
    """

    start_BXR: Int[Array, "B X R"]
    end_BXR: Int[Array, "B X R"]
    full_BXR: Bool[Array, "B X R"]
    """Every pair of these tiles is visible: no mask is needed."""


def tile_runs(visible_BXY: Bool[Array, "B X Y"], full_BXY: Bool[Array, "B X Y"], levels: int) -> TileRuns:
    """The runs of every line of tiles.

    Intervals that come from no tree can make more than there is room for: the last run then takes all that is left,
    with the mask. Nothing is missed, though tiles may be visited for nothing.
    """
    blocks = visible_BXY.shape[-1]
    index_Y = jnp.arange(blocks, dtype=jnp.int32)
    kind_BXY = jnp.where(full_BXY, 2, visible_BXY.astype(jnp.int8)).astype(jnp.int8)
    starts, ends, fulls = [], [], []
    end_BX = jnp.zeros(visible_BXY.shape[:2], jnp.int32)
    for _ in range(3 * (levels + 1)):
        start_BX = jnp.where((kind_BXY > 0) & (index_Y >= end_BX[..., None]), index_Y, blocks).min(-1)
        kind_BX = jnp.where(index_Y == start_BX[..., None], kind_BXY, 0).max(-1)
        other_BXY = (kind_BXY != kind_BX[..., None]) & (index_Y > start_BX[..., None])
        end_BX = jnp.where(other_BXY, index_Y, blocks).min(-1)
        starts.append(start_BX)
        ends.append(end_BX)
        fulls.append(kind_BX == 2)
    last_BX = jnp.where(kind_BXY > 0, index_Y + 1, 0).max(-1)
    fulls[-1] &= last_BX <= ends[-1]
    ends[-1] = jnp.maximum(ends[-1], last_BX)
    return TileRuns(jnp.stack(starts, -1), jnp.stack(ends, -1), jnp.stack(fulls, -1))


class RunLists(NamedTuple):
    """The runs of all lines as int32 arrays, for kernels: `runs_per_line` numbers a line.

    The last run of a line is always empty, and a line behind the last is too: a kernel may look ahead. A sequence of
    32K tokens in tiles of 128 takes 16 KiB an array for E = 4.
    """

    run: Int[Array, "B X1*R"]
    """First block of the run, times two, plus one if its tiles are visible in full."""
    end: Int[Array, "B X1*R"]
    """End of the run."""


def runs_per_line(levels: int) -> int:
    """Numbers per line in `RunLists`."""
    return 3 * (levels + 1) + 1


def run_lists(
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    q_offset_BC: Int[Array, "B C"],
    length: int,
    rows: int,
    block: int,
) -> tuple[RunLists, RunLists]:
    """What the tiles of `rows` query positions visit, and what the blocks of `block` keys do; `length` queries."""
    levels = hide_start_BES.shape[1]
    spans = tile_spans(hide_start_BES, hide_end_BES, block)
    visible_BQC, full_BQC = classify(spans, *tile_rows(q_offset_BC, length, rows))

    def flat(x_BXR):
        return jnp.pad(x_BXR, ((0, 0), (0, 1), (0, 1))).reshape(x_BXR.shape[0], -1)

    def listed(runs: TileRuns) -> RunLists:
        return RunLists(flat(2 * runs.start_BXR + runs.full_BXR), flat(runs.end_BXR))

    by_rows = tile_runs(visible_BQC, full_BQC, levels)
    by_keys = tile_runs(visible_BQC.swapaxes(1, 2), full_BQC.swapaxes(1, 2), levels)
    return listed(by_rows), listed(by_keys)


def visible_tiles(
    hide_start_BES: Int[Array, "B E S"],
    hide_end_BES: Int[Array, "B E S"],
    query_length: int,
    *,
    block_q: int,
    block_k: int,
    q_offset_BC: Int[Array, "B Chunks"] | None = None,
) -> tuple[Bool[Array, "B Q C"], Bool[Array, "B Q C"]]:
    """The tiles that attention visits, and those of them that need no mask: a meter for tests and benchmarks.

    Args:
        hide_start_BES, hide_end_BES: hidden intervals, as `attention` takes them.
        query_length: number of query rows T.
        block_q, block_k: rows and keys per tile; a last tile may be smaller.
        q_offset_BC: row of the first query of each chunk, as `tile_rows` takes it; one chunk from 0 by default.

    Returns:
        visible, full: as `classify`; C is the number of key blocks.
    """
    if q_offset_BC is None:
        q_offset_BC = jnp.zeros((hide_start_BES.shape[0], 1), jnp.int32)
    spans = tile_spans(hide_start_BES, hide_end_BES, block_k)
    return classify(spans, *tile_rows(q_offset_BC, query_length, block_q))
