"""Matrices in a byte a number: each row (output channel) has a scale, its largest magnitude over the format's.

A row is always seen whole, so that every split of a model over devices has the same numbers and scales. All of it is
NumPy on the host, a few rows at a time: what computes decides nothing, and a device never holds the wider numbers.
"""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mvjax.errors import UserError
from mvjax.models.number_formats import LARGEST, QUANTISED
from mvjax.weights.checkpoint import CHUNK_BYTES, Checkpoint, LazyTensor, LazyTensors, lazily

UNKNOWN = np.float32(-1)


class QuantisedRows:
    """A lazy matrix as quantised rows and their scales, both read when asked for.

    Attributes:
        values: [O, I] of the quantised type.
        scales: [O], float32; a row of zeros has 1. Those of rows that were read as `values` before are known.
    """

    def __init__(self, name: str, entry: LazyTensor, dtype: np.dtype):
        self.name, self.entry, self.dtype = name, entry, dtype
        self._scale_O = np.full(entry.shape[0], UNKNOWN, np.float32)
        in_rows = entry.read_rows is not None
        count = entry.shape[0]
        self.values = LazyTensor(entry.shape, dtype, lambda: self._values(0, count), self._values if in_rows else None)
        self.scales = LazyTensor(
            entry.shape[:1], np.dtype(np.float32), lambda: self._scales(0, count), self._scales if in_rows else None
        )

    def _values(self, start: int, stop: int) -> np.ndarray:
        read = self.entry.read_rows
        whole = self.entry.read() if read is None else np.empty(0)
        out = np.empty((stop - start, *self.entry.shape[1:]), self.dtype)
        step = max(1, CHUNK_BYTES // max(1, 4 * self.entry.shape[1]))

        def part(first: int) -> None:
            last = min(first + step, stop)
            rows = read(first, last) if read is not None else whole[first:last]
            out[first - start : last - start], self._scale_O[first:last] = quantise(self.name, rows, self.dtype)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets other threads run while it computes
            list(pool.map(part, range(start, stop, step)))
        return out

    def _scales(self, start: int, stop: int) -> np.ndarray:
        unknown = np.flatnonzero(self._scale_O[start:stop] == UNKNOWN)
        if len(unknown):
            self._values(start + int(unknown[0]), start + int(unknown[-1]) + 1)
        return self._scale_O[start:stop].copy()


def quantise(name: str, rows_OI: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Rows in a quantised type, rounded to the nearest, and their scales [O], float32.

    Raises UserError where a number is not finite; `name` is the tensor's.
    """
    rows_OI = rows_OI.astype(np.float32)
    most_O = np.abs(rows_OI).max(axis=1, initial=0)
    if not np.isfinite(most_O).all():
        raise UserError(f"{name} has numbers that are not finite: it cannot be quantised")
    scale_O = most_O / np.float32(LARGEST[dtype])
    # Below the normal numbers a scale has too few digits for its row, which is nothing beside the others anyway.
    scale_O = np.where(scale_O >= np.finfo(np.float32).tiny, scale_O, np.float32(1))
    rows_OI /= scale_O[:, None]
    return (np.rint(rows_OI, out=rows_OI) if dtype == np.int8 else rows_OI).astype(dtype), scale_O


def dequantised(checkpoint: Checkpoint, weight_dtype: str) -> Checkpoint:
    """A checkpoint whose matrices are those that a model quantised to "int8" or "fp8" computes with, in float32.

    With them the training forward is what a quantised engine must agree with.
    """
    dtype = QUANTISED[weight_dtype]
    entries = lazily(checkpoint.tensors)
    for name, entry in entries.items():
        if len(entry.shape) == 2:
            entries[name] = widened(QuantisedRows(name, entry, dtype))
    config = {**checkpoint.config, "torch_dtype": "float32"}
    return dataclasses.replace(checkpoint, tensors=LazyTensors(entries), config=config)


def widened(rows: QuantisedRows) -> LazyTensor:
    """Quantised rows times their scales, float32."""

    def read_rows(start: int, stop: int) -> np.ndarray:
        values = rows.values.read_part((slice(start, stop),)).astype(np.float32)
        return values * rows.scales.read_part((slice(start, stop),))[:, None]

    shape = rows.entry.shape
    in_rows = read_rows if rows.entry.read_rows is not None else None
    return LazyTensor(shape, np.dtype(np.float32), lambda: read_rows(0, shape[0]), in_rows)
