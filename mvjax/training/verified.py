"""Arrays of a checkpoint, checked against their fingerprints while they are read a part at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mvjax.errors import UserError
from mvjax.training.hashes import GOLDEN, mixed
from mvjax.weights.checkpoint import LazyTensor

BLOCK = 2**16
"""Elements that are hashed at once: what stays in the processor's cache."""


def verified(entry: LazyTensor, fingerprint: int, name: str) -> LazyTensor:
    """The same array. Once its rows have been read from the first to the last, in whatever parts, the last read raises
    UserError unless they are those that were saved (`checkpoints.fingerprint`); rows that are read again do not count.

    name: of the array and its checkpoint, for the message.
    """
    row = math.prod(entry.shape[1:])
    total, done, rows = 0, 0, entry.shape[0] if entry.shape else 1

    def checked(array: np.ndarray, start: int, stop: int) -> np.ndarray:
        nonlocal total, done
        if start == done < rows:
            total = (total + part_fingerprint(array, start * row)) % 2**32
            done = stop
            if done == rows and total != fingerprint:
                raise UserError(f"{name}: the numbers are not those that were saved: the checkpoint is damaged")
        return array

    read, read_rows = entry.read, entry.read_rows
    return dataclasses.replace(
        entry,
        read=lambda: checked(read(), 0, rows),
        read_rows=None if read_rows is None else lambda start, stop: checked(read_rows(start, stop), start, stop),
    )


def part_fingerprint(array: np.ndarray, first: int) -> int:
    """What some elements of an array, in the order of its rows, add to its fingerprint; first: number of the first."""
    bits = np.ascontiguousarray(array).reshape(-1)
    bits = bits.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    total = 0
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK].astype(np.uint32)
        place = np.arange(first + start, first + start + len(block), dtype=np.uint64).astype(np.uint32)
        total += int(mixed(block ^ (place * np.uint32(GOLDEN))).sum(dtype=np.uint64))
    return total % 2**32
