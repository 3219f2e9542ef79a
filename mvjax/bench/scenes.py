"""Hidden intervals of texts whose shape is stated: causal, packed, or with a given degree of parallelism."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

INT32_MAX = 2**31 - 1
PATHS = 16
"""Paths of the one block of a parallel text."""
MEAN_DOCUMENT = 2048
"""Tokens of a packed document, on average."""


def causal(length: int, levels: int) -> tuple[Int[np.ndarray, "E T"], Int[np.ndarray, "E T"]]:
    """One document without blocks."""
    start_ET, end_ET = np.zeros((2, levels, length), np.int32)
    start_ET[0], end_ET[0] = length, INT32_MAX
    return start_ET, end_ET


def packed(length: int, levels: int, seed: int = 0) -> tuple[Int[np.ndarray, "E T"], Int[np.ndarray, "E T"]]:
    """Documents without blocks, from a quarter of the mean to seven quarters."""
    start_ET, end_ET = causal(length, levels)
    rng, at = np.random.default_rng(seed), 0
    while at < length:
        size = int(rng.integers(MEAN_DOCUMENT // 4, 7 * MEAN_DOCUMENT // 4))
        start_ET[0, at : at + size] = min(at + size, length)
        at += size
    return start_ET, end_ET


def parallel(degree: float, length: int, levels: int) -> tuple[Int[np.ndarray, "E T"], Int[np.ndarray, "E T"]]:
    """One document: sequential text, then a block of equal paths, so long that # parallel (tokens over critical path)
    is `degree`."""
    if not 1 < degree < PATHS or levels < 2:
        raise ValueError(f"degree {degree}, {levels} levels: give a degree between 1 and {PATHS}, and 2 levels or more")
    start_ET, end_ET = causal(length, levels)
    # length / degree = sequential + (length - sequential) / PATHS
    share = (1 - 1 / degree) / (1 - 1 / PATHS)
    path = max(1, round(share * length / PATHS))
    block = length - PATHS * path
    path_T = (np.arange(length) - block) // path
    inside_T = np.arange(length) >= block
    start_ET[1] = np.where(inside_T, block + (path_T + 1) * path, 0)
    end_ET[1] = np.where(inside_T, length, 0)
    return start_ET, end_ET


SCENES = {
    "causal": causal,
    "packed": packed,
    "# parallel 1.2": lambda *sizes: parallel(1.2, *sizes),
    "# parallel 2": lambda *sizes: parallel(2, *sizes),
    "# parallel 4": lambda *sizes: parallel(4, *sizes),
    "# parallel 8": lambda *sizes: parallel(8, *sizes),
}
