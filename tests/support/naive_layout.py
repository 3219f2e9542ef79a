"""The layout of a transcript by its pairwise definition: quadratic, and without intervals or segments' arithmetic."""

from __future__ import annotations

import numpy as np

from mvjax.language.layout import Layout


def addresses(tokens: list[str]) -> list[dict[int, int]]:
    """Per token, {block: path}: the path that it is in, of every block that encloses it in a path.

    A path reaches from its `<Path>` to before the next `<Path>` or `<Conclusion>` of the same block.
    """
    out: list[dict[int, int]] = []
    open_blocks: list[int] = []
    here: dict[int, int] = {}
    n_blocks = 0
    for token in tokens:
        if token == "<Parallel>":
            open_blocks.append(n_blocks)
            n_blocks += 1
        elif token == "<Path>":
            here = {**here, open_blocks[-1]: here.get(open_blocks[-1], 0) + 1}
        elif token == "<Conclusion>":
            here = {block: path for block, path in here.items() if block != open_blocks[-1]}
        out.append(here)
        if token == "</Parallel>":
            open_blocks.pop()
    return out


def visible(tokens: list[str]) -> np.ndarray:
    """bool[T, T]: does query i see key j? Not later ones, and none in another path of a block that holds both."""
    where = [tuple(address.items()) for address in addresses(tokens)]
    distinct = list(dict.fromkeys(where))
    may_see = [[all(dict(a).get(block, path) == path for block, path in b) for b in distinct] for a in distinct]
    which_T = np.array([distinct.index(address) for address in where], int)
    return np.tril(np.array(may_see, bool).reshape(len(distinct), len(distinct))[which_T][:, which_T])


def positions(visible_TT: np.ndarray) -> np.ndarray:
    """int[T]: the length of the longest chain of visible tokens that ends in each."""
    out_T = np.zeros(len(visible_TT), int)
    for i in range(1, len(visible_TT)):
        out_T[i] = max(out_T[:i][visible_TT[i, :i]], default=-1) + 1
    return out_T


def dense_mask(layout: Layout) -> np.ndarray:
    """bool[T, T]: what a layout's intervals say."""
    rows_T = np.arange(len(layout.segment))
    mask_TT = rows_T[:, None] >= rows_T[None, :]
    for start_T, end_T in zip(layout.hide_start, layout.hide_end):
        mask_TT &= ~((rows_T[:, None] >= start_T) & (rows_T[:, None] < end_T))
    return mask_TT


def reachable(visible_TT: np.ndarray) -> np.ndarray:
    """bool[T, T]: is there a chain of visible pairs from key j to query i, through any number of layers?"""
    reach_TT = visible_TT
    while True:
        further_TT = (reach_TT.astype(np.float32) @ reach_TT.astype(np.float32)) > 0
        if (further_TT == reach_TT).all():
            return reach_TT
        reach_TT = further_TT
