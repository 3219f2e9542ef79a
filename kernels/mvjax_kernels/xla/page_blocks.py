"""Blocks of pages in plain XLA: what a loop over the live slots of paged KV streams reads in one turn.

A block is some pages of one stream, one behind the other. Only blocks with a live slot are read, so the width of the
page table costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

SLICES = 16
"""Pages of a block at most that are read by a slice each: on a CPU twice as fast as a gather, but a piece of program
each."""
_ZERO = np.int32(0)


class Block(NamedTuple):
    """Stretches of X slots of C streams; the numbers are as the pages hold them, without their scales."""

    k_CKXH: Shaped[Array, "C K X H"]
    """Keys; in dead slots anything."""
    v_CKXH: Shaped[Array, "C K X H"]
    """Values; zero in dead slots."""
    k_scale_CKX: Float[Array, "C K X"] | None
    """Factors of quantised keys; in dead slots anything."""
    v_scale_CKX: Float[Array, "C K X"] | None
    """Factors of quantised values; zero in dead slots."""
    slot_X: Int[Array, " X"]
    """Number of each slot in its stream."""
    live_CX: Bool[Array, "C X"]
    """Slots that the stream uses and that belong to no block before."""


class PagedStreams(NamedTuple):
    """KV streams in pages, as `mvjax_kernels.paged_decode_attention` takes them."""

    k_PKZH: Shaped[Array, "P K Z H"]
    v_PKZH: Shaped[Array, "P K Z H"]
    k_scale_PKZ: Float[Array, "P K Z"] | None
    v_scale_PKZ: Float[Array, "P K Z"] | None
    pages_RM: Int[Array, "R M"]
    length_R: Int[Array, " R"]

    def pages_of(self, slots: int) -> int:
        """Pages of a block of about this number of slots: one at least, and no more than a stream has."""
        return min(max(1, slots // self.k_PKZH.shape[2]), self.pages_RM.shape[1])

    def block(self, index: Array, pages: int, request_C: Array | None = None) -> Block:
        """The block `index` of these requests' streams, of `pages` pages; None: of all streams, in order.

        Behind the last whole block of a table the block begins earlier; what the one before held counts as dead.
        """
        Z, first = self.k_PKZH.shape[2], jnp.minimum(index * pages, self.pages_RM.shape[1] - pages)
        length_C1 = (self.length_R if request_C is None else self.length_R[request_C])[:, None]
        slot_X = first * Z + jnp.arange(pages * Z, dtype=jnp.int32)
        live_CX = (slot_X >= index * pages * Z) & (slot_X < length_C1)
        page_CY = columns(self.pages_RM, first, pages, request_C)
        used_CY = (first + jnp.arange(pages, dtype=jnp.int32)) * Z < length_C1
        page_CY = jnp.where(used_CY, page_CY, 0)
        k_scale_CKX = v_scale_CKX = None
        if self.k_scale_PKZ is not None and self.v_scale_PKZ is not None:
            k_scale_CKX = _read(self.k_scale_PKZ, page_CY)
            v_scale_CKX = jnp.where(live_CX[:, None], _read(self.v_scale_PKZ, page_CY), 0.0)
        k_CKXH, v_CKXH = _read(self.k_PKZH, page_CY), _read(self.v_PKZH, page_CY)
        v_CKXH = jnp.where(live_CX[:, None, :, None], v_CKXH, jnp.zeros((), v_CKXH.dtype))
        return Block(k_CKXH, v_CKXH, k_scale_CKX, v_scale_CKX, slot_X, live_CX)


def columns(x_RY: Array, start: Array, size: int, request_C: Array | None = None) -> Array:
    """[C, size]: `size` columns from `start` on of some rows, a slice for each; None: of all rows."""
    if request_C is None:
        return lax.dynamic_slice_in_dim(x_RY, start, size, axis=1)
    rows = [lax.dynamic_slice(x_RY, (request, start), (1, size)) for request in request_C]
    return jnp.concatenate(rows)


def _read(x_PKZ_: Array, page_CY: Array) -> Array:
    """[C, K, Y * Z, ...]: pages in the order of their slots."""
    (C, Y), (_, K, Z, *rest) = page_CY.shape, x_PKZ_.shape
    if C * Y > SLICES:
        return x_PKZ_[page_CY].swapaxes(1, 2).reshape(C, K, Y * Z, *rest)
    zeros = [_ZERO] * (x_PKZ_.ndim - 1)
    pages = [[lax.dynamic_slice(x_PKZ_, (page_CY[c, y], *zeros), (1, K, Z, *rest)) for y in range(Y)] for c in range(C)]
    return jnp.concatenate([jnp.concatenate(row, axis=2) for row in pages])
