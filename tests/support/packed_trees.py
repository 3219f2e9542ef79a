"""Rows of packed documents, each a random tree of blocks and paths, with its visibility by the pairwise definition.

The hidden intervals come from where paths and blocks end, `visible` from comparing two tokens' addresses: neither is
derived from the other, and nothing of mvjax is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class PackedRow:
    """One row of T tokens."""

    hide_start_ET: np.ndarray
    hide_end_ET: np.ndarray
    visible_TT: np.ndarray
    """[query, key]."""


@dataclass(frozen=True)
class TreeShape:
    """What the documents look like."""

    depth: int = 4
    """Most paths that enclose a token."""
    paths: int = 4
    text: int = 6
    """Most tokens between blocks; 0 is possible."""
    cut: float = 0.3
    """Share of documents cut where they stand."""
    padding: float = 0.1
    """Share of the row that is padding, at its end."""


class _Full(Exception):
    """The document has reached its length."""


def packed_row(rng: np.random.Generator, length: int, levels: int, shape: TreeShape = TreeShape()) -> PackedRow:
    """A row of `length` tokens with `levels` interval levels (the document and levels - 1 of nesting)."""
    real = length - int(rng.integers(0, int(shape.padding * length) + 1))
    document_T = np.zeros(length, int)
    addresses: list[tuple[tuple[int, int], ...]] = []
    open_blocks: set[int] = set()
    document = 0
    while len(addresses) < real:
        start, left = len(addresses), real - len(addresses)
        if rng.random() < 0.15:
            left = 1
        elif rng.random() < shape.cut:
            left = int(rng.integers(1, left + 1))
        addresses += _document(rng, left, min(shape.depth, levels - 1), shape, document, open_blocks)
        document_T[start : len(addresses)] = document
        document += 1
    document_T[real:] = document
    addresses += [()] * (length - real)
    hide_start_ET, hide_end_ET = _intervals(addresses, document_T, open_blocks, levels)
    return PackedRow(hide_start_ET, hide_end_ET, _visible(addresses, document_T))


def packed_batch(seed: int, batch: int, length: int, levels: int, shape: TreeShape = TreeShape()):
    """`batch` rows: hide_start, hide_end int32[B, E, T] and visible bool[B, T, T]."""
    rows = [packed_row(np.random.default_rng((seed, b)), length, levels, shape) for b in range(batch)]
    return tuple(np.stack([getattr(r, f) for r in rows]) for f in ("hide_start_ET", "hide_end_ET", "visible_TT"))


def _document(rng, length, depth, shape, document, open_blocks) -> list[tuple[tuple[int, int], ...]]:
    out: list[tuple[tuple[int, int], ...]] = []
    stack: list[int] = []
    blocks = 0

    def text(here):
        for _ in range(int(rng.integers(0, shape.text + 1))):
            if len(out) == length:
                raise _Full
            out.append(here)

    def body(here):
        nonlocal blocks
        text(here)
        while len(here) < depth and rng.random() < 0.6:
            block = document * 1_000_000 + blocks
            blocks += 1
            stack.append(block)
            for path in range(int(rng.integers(1, shape.paths + 1))):
                inside = (*here, (block, path))
                if len(out) == length:
                    raise _Full
                out.append(inside)
                body(inside)
            stack.pop()
            text(here)

    try:
        body(())
        if not out:
            out.append(())
    except _Full:
        open_blocks.update(stack)
    return out


def _intervals(addresses, document_T, open_blocks, levels):
    last_of_path: dict[tuple[int, int], int] = {}
    last_of_block: dict[int, int] = {}
    for t, address in enumerate(addresses):
        for block, path in address:
            last_of_path[block, path] = last_of_block[block] = t
    hide_start_ET = np.zeros((levels, len(addresses)), np.int32)
    hide_end_ET = np.zeros_like(hide_start_ET)
    hide_start_ET[0] = np.searchsorted(document_T, document_T, side="right")
    hide_end_ET[0] = INT32_MAX
    for t, address in enumerate(addresses):
        for level, (block, path) in enumerate(address, 1):
            hide_start_ET[level, t] = last_of_path[block, path] + 1
            hide_end_ET[level, t] = INT32_MAX if block in open_blocks else last_of_block[block] + 1
    return hide_start_ET, hide_end_ET


def _visible(addresses, document_T):
    visible_TT = np.tril(document_T[:, None] == document_T)
    # A block stands at one level of nesting: two tokens are in different paths of it, or not, level by level.
    for level in range(max(map(len, addresses))):
        place_T2 = np.array([a[level] if level < len(a) else (-1 - t, 0) for t, a in enumerate(addresses)])
        same_block_TT, same_path_TT = (place_T2[:, None, i] == place_T2[None, :, i] for i in (0, 1))
        visible_TT &= ~(same_block_TT & ~same_path_TT)
    return visible_TT
