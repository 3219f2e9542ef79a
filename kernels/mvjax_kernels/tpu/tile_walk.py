"""How a TPU kernel walks the tiles of attention that hold a visible pair: lists in scalar memory, copies of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Int

from mvjax_kernels.tiles import RunLists, runs_per_line


class Shape(NamedTuple):
    """All that is known while tracing; sizes are those of the padded arrays."""

    batch: int
    kv_heads: int
    group: int
    length: int
    keys: int
    head: int
    levels: int
    rows: int
    """Query positions per tile."""
    block: int
    """Keys per tile."""
    scale: float
    soft_cap: float | None
    precision: lax.Precision

    @property
    def height(self) -> int:
        """Rows of a tile's products: M."""
        return self.group * self.rows

    @property
    def query_tiles(self) -> int:
        return self.length // self.rows

    @property
    def key_blocks(self) -> int:
        return self.keys // self.block


class Lists(NamedTuple):
    """What lies in scalar memory."""

    line: jax.Array
    """[1, 1, 1, `line_size`]: what the line of a grid step visits, see `lines_of`."""
    first: jax.Array
    """[B * tiles]: first row of each tile of queries."""


def lines_of(lists: RunLists, levels: int) -> Int[jax.Array, "B X 1 C"]:
    """A line's runs, their ends, then the number of visits and the first run of the next line.

    A grid step gets its own line only, so that scalar memory sets no limit to the length.
    """
    runs = runs_per_line(levels)
    run_BXR, end_BXR = (x.reshape(x.shape[0], -1, runs) for x in lists)
    count_BX = (end_BXR - run_BXR // 2).sum(-1)
    following_BX2 = jnp.stack([count_BX, run_BXR[..., 0]], -1)[:, 1:]
    return jnp.concatenate([run_BXR[:, :-1], end_BXR[:, :-1], following_BX2], -1)[:, :, None]


def walk(shape: Shape, lists: Lists, line, lines: int, slot_ref, copies: Callable, visit: Callable) -> None:
    """Calls `visit(block, full, slot)` for a line's blocks, each copied while the one before is worked on.

    The last visit of a line already fetches the first block of the next, so lines must come in order, from 0.

    Args:
        copies: (block, full, slot) -> pairs of a copy and the condition under which it is needed.
        slot_ref: scalar memory that outlives the grid step: the buffer that the next block is in, or comes to.
    """
    runs = runs_per_line(shape.levels)

    def run_at(run):
        return lists.line[0, 0, 0, run]

    def end_at(run):
        return lists.line[0, 0, 0, runs + run]

    def fetch(code, slot, block=None):
        block = code // 2 if block is None else block
        for copy, needed in copies(block, code % 2 == 1, slot):
            pl.when(needed)(copy.start)

    count = sum(end_at(run) - run_at(run) // 2 for run in range(runs - 1))
    following, next_code = lists.line[0, 0, 0, 2 * runs], lists.line[0, 0, 0, 2 * runs + 1]
    next_exists = (line + 1 < lines) & (following > 0)

    @pl.when(line == 0)
    def _():
        slot_ref[0] = 0

    pl.when((line == 0) & (count > 0))(lambda: fetch(run_at(0), 0))

    def step(i, carry):
        block, run = carry
        slot, full = slot_ref[0], run_at(run) % 2 == 1
        inside = block + 1 < end_at(run)
        next_run = jnp.where(inside, run, run + 1)
        code = jnp.where(i + 1 == count, next_code, run_at(next_run))
        next_block = jnp.where(inside & (i + 1 < count), block + 1, code // 2)
        pl.when((i + 1 < count) | next_exists)(lambda: fetch(code, 1 - slot, next_block))
        for copy, needed in copies(block, full, slot):
            pl.when(needed)(copy.wait)
        visit(block, full, slot)
        slot_ref[0] = 1 - slot
        return next_block, next_run

    lax.fori_loop(0, count, step, (run_at(0) // 2, 0))
    pl.when((count == 0) & next_exists)(lambda: fetch(next_code, slot_ref[0]))
