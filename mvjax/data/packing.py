"""Packing whole documents into rows of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32

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


def first_fit_decreasing(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Distribute documents over rows: the longest first, each into the first row that has room.

    Returns the indices of each row's documents, in the order of `lengths`.
    Raises:
      ValueError: a document longer than the row (the caller leaves those out and counts them).
    """
    if len(lengths) and max(lengths) > row_length:
        raise ValueError(f"a document of {max(lengths)} tokens does not fit into rows of {row_length}")
    rows: list[list[int]] = []
    room = np.zeros(len(lengths), np.int64)
    for index in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        fitting = np.flatnonzero(room[: len(rows)] >= lengths[index])
        if fitting.size:
            row = int(fitting[0])
        else:
            row = len(rows)
            rows.append([])
            room[row] = row_length
        rows[row].append(index)
        room[row] -= lengths[index]
    return [sorted(row) for row in rows]


def pack(examples: Sequence[Example], row_length: int) -> list[list[Example]]:
    """Whole documents in as few rows as first-fit-decreasing needs.

    Raises:
      ValueError: an example longer than the row.
    """
    rows = first_fit_decreasing([len(example.tokens) for example in examples], row_length)
    return [[examples[index] for index in row] for row in rows]


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
