"""Packing whole documents into rows of equal length."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32

from mvjax.data.encode import Example
from mvjax.language import INT32_MAX


class Batch(NamedTuple):
    """Packed rows. A target token t of a row is predicted from hidden[predecessor[t]].

    Every row index counts from the start of the row. A document sees no other; the padding at a row's end is a
    document of its own, without targets.
    """

    tokens_BT: Int32[np.ndarray, "B T"]
    """Token ids."""
    positions_BT: Int32[np.ndarray, "B T"]
    """Rotary positions, from 0 in each document."""
    hide_start_BET: Int32[np.ndarray, "B E T"]
    """Per level the first row from which the token is hidden; level 0 is the document, then nesting from outside in."""
    hide_end_BET: Int32[np.ndarray, "B E T"]
    """The row after the last; [0, 0) where a level is not used."""
    loss_BT: Bool[np.ndarray, "B T"]
    """Whether the token is a target."""
    predecessor_BT: Int32[np.ndarray, "B T"]
    """The token before it in its segment; the token itself where there is none (never a target)."""
    part_BT: Int8[np.ndarray, "B T"]
    """0 prompt (padding too), 1 sequential text, 2 path, 3 tag, 4 conclusion."""


FINISH = 3.0
"""A row with room for fewer documents of the mean length is finished as exactly as possible."""
CANDIDATES = 64
"""Documents of which each is tried as one of the two that finish a row."""


def pack(lengths: Sequence[int] | np.ndarray, row_length: int) -> list[list[int]]:
    """Distribute whole documents over few rows: the better of two ways, which are good at different lengths.

    Returns the indices of each row's documents, in the order of `lengths`; rows in the order of their first documents.
    Raises:
      ValueError: a document longer than the row (the caller leaves those out and counts them).
    """
    if len(lengths) and max(lengths) > row_length:
        raise ValueError(f"a document of {max(lengths)} tokens does not fit into rows of {row_length}")
    lengths_N = np.asarray(lengths, np.int64)
    rows = best_fit_decreasing(lengths_N, row_length)
    if len(rows) * row_length - lengths_N.sum() >= row_length:
        rows = min(rows, balanced(lengths_N, row_length), key=len)
    return sorted(sorted(row) for row in rows)


def best_fit_decreasing(lengths_N: Int[np.ndarray, "N"], row_length: int) -> list[list[int]]:
    """The longest document first, each into the row in which it leaves the least room: good where few fit in a row."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    """Room left and number of each row, sorted."""
    for index in np.argsort(-lengths_N, kind="stable").tolist():
        length = int(lengths_N[index])
        place = bisect.bisect_left(rooms, (length, 0))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(index)
        bisect.insort(rooms, (room - length, row))
    return rows


def balanced(lengths_N: Int[np.ndarray, "N"], row_length: int) -> list[list[int]]:
    """Row by row: the longest that is left, then average ones, at last the two that fill the row best. So every row
    takes of all lengths, and what finishes the last rows is as varied as what finished the first: good where several
    documents fit in a row."""
    order_N = np.argsort(lengths_N, kind="stable")
    indices, left = order_N.tolist(), lengths_N[order_N].tolist()
    total, rows = int(lengths_N.sum()), []
    while left:
        taken, room = [len(left) - 1], row_length
        rows.append([])
        while taken:
            for place in taken:
                rows[-1].append(indices.pop(place))
                length = left.pop(place)
                total, room = total - length, room - length
            fitting = bisect.bisect_right(left, room)
            if fitting and room > FINISH * total / len(left):
                taken = [min(bisect.bisect_left(left, total / len(left)), fitting - 1)]
            else:
                taken = _finish(left, fitting, room)
    return rows


def _finish(lengths: list[int], fitting: int, room: int) -> list[int]:
    """Places of the one or two documents out of the first `fitting` that leave the least room, the longer one first;
    none if none fits. `lengths` is sorted."""
    best, places = room, []
    for one in range(fitting - 1, -1, -max(1, fitting // CANDIDATES)):
        rest = room - lengths[one]
        two = min(bisect.bisect_right(lengths, rest), one) - 1
        rest -= lengths[two] if two >= 0 else 0
        if rest < best:
            best, places = rest, [one, two] if two >= 0 else [one]
        if best == 0:
            break
    return places


def spread(lengths: Sequence[int] | np.ndarray, row_length: int, rows: int) -> list[list[int]]:
    """Distribute whole documents evenly over a set number of rows, some of which may stay empty.

    The longest document first, each into the row that holds least: attention then has the least padding to look at in
    one row. Where that does not fit, the documents are packed as tightly as `pack` can, which may take more rows than
    are wanted: the caller compares. With as many rows as documents each has one of its own.

    Returns the indices of each row's documents, in the order of `lengths`.
    """
    filled = [(0, row) for row in range(rows)]
    found: list[list[int]] = [[] for _ in range(rows)]
    for index in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        length, row = heapq.heappop(filled)
        length += int(lengths[index])
        if length > row_length:
            packed = pack(lengths, row_length)
            return packed + [[] for _ in range(rows - len(packed))]
        found[row].append(index)
        heapq.heappush(filled, (length, row))
    return [sorted(row) for row in found]


def to_batch(rows: Sequence[Sequence[Example]], row_length: int, levels: int, pad_id: int) -> Batch:
    """The arrays of packed rows: B = len(rows), T = row_length, E = levels.

    Raises:
      ValueError: a row that is too full, or a document nested deeper than `levels` - 1. Nothing is ever cut.
    """
    shape = (len(rows), row_length)
    batch = Batch(
        tokens_BT=np.full(shape, pad_id, np.int32),
        positions_BT=np.zeros(shape, np.int32),
        hide_start_BET=np.zeros((len(rows), levels, row_length), np.int32),
        hide_end_BET=np.zeros((len(rows), levels, row_length), np.int32),
        loss_BT=np.zeros(shape, bool),
        predecessor_BT=np.tile(np.arange(row_length, dtype=np.int32), (len(rows), 1)),
        part_BT=np.zeros(shape, np.int8),
    )
    for row, examples in enumerate(rows):
        start = 0
        for example in examples:
            start = _place(batch, row, start, example)
        batch.positions_BT[row, start:] = np.arange(row_length - start)
        batch.hide_start_BET[row, 0, start:] = row_length
        batch.hide_end_BET[row, 0, start:] = INT32_MAX
    return batch


def _place(batch: Batch, row: int, start: int, example: Example) -> int:
    """Write one document into a row from `start` on; returns its end."""
    layout = example.layout
    levels, row_length = batch.hide_start_BET.shape[1:]
    end = start + len(example.tokens)
    if end > row_length:
        raise ValueError(f"{example.id}: {end} tokens in a row of {row_length}")
    if layout.depth + 1 > levels:
        raise ValueError(f"{example.id}: nested {layout.depth} deep, but a batch of {levels} levels holds {levels - 1}")
    here = slice(start, end)
    batch.tokens_BT[row, here] = example.tokens
    batch.positions_BT[row, here] = layout.position
    batch.loss_BT[row, here] = example.loss
    batch.part_BT[row, here] = layout.part
    own_T = np.arange(len(example.tokens), dtype=np.int32)
    batch.predecessor_BT[row, here] = start + np.where(layout.predecessor >= 0, layout.predecessor, own_T)
    batch.hide_start_BET[row, 0, here] = end
    batch.hide_end_BET[row, 0, here] = INT32_MAX
    used_ET = layout.hide_end > layout.hide_start
    # An open block's INT32_MAX stays: level 0 hides the document from what follows anyway.
    shifted_ET = np.where(layout.hide_end == INT32_MAX, INT32_MAX, layout.hide_end.astype(np.int64) + start)
    nested = slice(1, 1 + layout.depth)
    batch.hide_start_BET[row, nested, here] = np.where(used_ET, layout.hide_start + start, 0)
    batch.hide_end_BET[row, nested, here] = np.where(used_ET, shifted_ET, 0)
    return end
