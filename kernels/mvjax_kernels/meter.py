"""What the attention kernels do, counted from the lists that they walk: tiles, bytes, multiply-adds. Not a timer."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mvjax_kernels.tiles import run_lists, runs_per_line
from mvjax_kernels.tpu import decode_attention as tpu_decode


@dataclass(frozen=True)
class Work:
    """Of one kernel, all sequences and heads together."""

    tiles: int
    """Visited tiles: of one head's rows on a GPU, of a query group's on a TPU. Of decoding: pages."""
    full: int
    """Those of them that need no mask."""
    loaded: int
    """Bytes copied to the core, out of memory or cache."""
    stored: int
    """Bytes of results."""
    multiply_adds: int
    """Of the matrix products."""


def attention_work(
    hide_start_BES: Int[Array | np.ndarray, "B E S"],
    hide_end_BES: Int[Array | np.ndarray, "B E S"],
    *,
    length: int,
    heads: int,
    kv_heads: int,
    head: int,
    bytes_per_number: int,
    rows: int,
    block: int,
    together: bool = True,
    q_offset_BC: Int[Array | np.ndarray, "B C"] | None = None,
) -> dict[str, Work]:
    """The work of "forward", "dq" and "dkv" for these intervals.

    Args:
        hide_start_BES, hide_end_BES: as `attention` takes them.
        length: number of queries T.
        rows, block: query positions and keys per tile.
        together: a tile holds the rows of a whole query group (TPU), not of one head (GPU).
        q_offset_BC: row of the first query of each of C chunks; one chunk from 0 by default.
    """
    B, levels, keys = hide_start_BES.shape
    if q_offset_BC is None:
        q_offset_BC = jnp.zeros((B, 1), jnp.int32)
    start_BES, end_BES, offset_BC = (jnp.asarray(x) for x in (hide_start_BES, hide_end_BES, q_offset_BC))
    lists = _lists(start_BES, end_BES, offset_BC, length, rows, block)
    masked, full = _visits(lists[0].run, lists[0].end, levels)
    tiles = masked + full
    assert tiles == sum(_visits(lists[1].run, lists[1].end, levels)), "both lists must hold the same tiles"
    group = heads // kv_heads
    height = rows * (group if together else 1)
    repeats = kv_heads if together else heads
    query_tile, key_block = height * head * bytes_per_number, block * head * bytes_per_number
    intervals, stats = 2 * levels * block * 4, 2 * height * 4
    query_tiles, key_blocks = B * -(-length // rows), B * -(-keys // block)
    product = height * block * head
    numbers = 2 * runs_per_line(levels) + (2 if together else 0)

    def work(products, lines, per_line, per_tile, stored):
        loaded = per_line + tiles * per_tile + lines * numbers * 4
        return Work(repeats * tiles, repeats * full, repeats * loaded, stored, repeats * tiles * products * product)

    numbers_q, numbers_k = B * length * heads * head * bytes_per_number, B * keys * kv_heads * head * bytes_per_number
    hidden = masked * intervals
    stored = numbers_q + B * length * heads * 4
    # A TPU brings the intervals of a key block once; a GPU's program serves all heads of a group, tile by tile.
    keys_of_lines = key_blocks * 2 * key_block + key_blocks * intervals
    if not together:
        keys_of_lines = key_blocks * 2 * key_block // group + hidden
    return {
        "forward": work(2, query_tiles, query_tiles * query_tile + hidden, 2 * key_block, stored),
        "dq": work(3, query_tiles, query_tiles * (2 * query_tile + stats) + hidden, 2 * key_block, numbers_q),
        "dkv": work(4, key_blocks, keys_of_lines, 2 * query_tile + stats, 2 * numbers_k),
    }


def decode_work(
    length_R: Int[Array | np.ndarray, " R"],
    *,
    page_size: int,
    lanes: int,
    heads: int,
    kv_heads: int,
    head: int,
    bytes_per_number: int,
    slots: int,
    scales: bool = False,
) -> Work:
    """The work of one decode step over pages, on a TPU: `tiles` are pages, each read once for all lanes.

    Args:
        length_R: live slots of each request's KV stream.
        slots: S, the most that a request can have: its visibility words are copied whole.
        scales: pages are quantised, with a float32 scale for each slot, head and side.
    """
    requests = len(length_R)
    table_RM = jnp.zeros((requests, slots // page_size), jnp.int32)
    _, base = tpu_decode.page_list(table_RM, jnp.asarray(length_R), page_size)
    pages = int(base[-1])
    slot = kv_heads * (head * bytes_per_number + 4 * scales) * 2
    rows = requests * lanes * heads * head * bytes_per_number
    products = 2 * pages * page_size * lanes * heads * head
    return Work(pages, 0, pages * page_size * slot + rows + requests * slots * 4, rows, products)


_lists = jax.jit(run_lists, static_argnums=(3, 4, 5))
"""As the kernels make them: in one program."""


def _visits(run: jax.Array, end: jax.Array, levels: int) -> tuple[int, int]:
    """Tiles in a list that need the mask, and tiles that do not."""
    codes, ends = (np.asarray(x)[:, : -runs_per_line(levels)] for x in (run, end))
    count = np.maximum(ends - codes // 2, 0)
    return int(count[codes % 2 == 0].sum()), int(count[codes % 2 == 1].sum())
