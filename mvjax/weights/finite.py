"""Weights that are no numbers, noticed while they are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from mvjax.weights.checkpoint import CHUNK_BYTES, Checkpoint, LazyTensor, LazyTensors, lazily


def watched(checkpoint: Checkpoint, found: set[str]) -> Checkpoint:
    """The same checkpoint; the names of tensors in which a NaN or an infinity is read are put into `found`."""
    entries = {
        name: watched_tensor(entry, functools.partial(found.add, name))
        for name, entry in lazily(checkpoint.tensors).items()
    }
    return dataclasses.replace(checkpoint, tensors=LazyTensors(entries))


def watched_tensor(entry: LazyTensor, report: Callable[[], None]) -> LazyTensor:
    """The same tensor; `report` is called when a part is read that is not finite."""
    if entry.dtype.kind in "iub":
        return entry

    def checked(array: np.ndarray) -> np.ndarray:
        if not is_finite(array):
            report()
        return array

    read_rows = entry.read_rows
    rows = None if read_rows is None else lambda start, stop: checked(read_rows(start, stop))
    return dataclasses.replace(entry, read=lambda: checked(entry.read()), read_rows=rows)


def is_finite(array: np.ndarray) -> bool:
    """Whether all elements are finite, tested a few at a time."""
    flat = array.reshape(-1)
    step = max(1, CHUNK_BYTES // array.itemsize)
    return all(bool(np.isfinite(flat[i : i + step]).all()) for i in range(0, len(flat), step))
