"""The largest logits of each row, as `lax.top_k` gives them, without the sort of whole rows that it is on GPUs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

BLOCK = 64
"""Numbers of a row whose maximum is looked at first. A row of 152,064 has 2,376 maxima then, and 4,096 candidates
among which the 64 largest are: what is sorted is both times a few thousand wide."""


def k_largest(x_WV: Float[Array, "W V"], k: int) -> tuple[Float[Array, "W K"], Int[Array, "W K"]]:
    """The k largest numbers of each row, largest first, and where they stand; the lower index first among equals.

    Two stages where the program is for a GPU and rows are longer than the candidates would be. Elsewhere `lax.top_k`:
    TPUs and CPUs need not sort for it, and on CPUs the two stages took 1.0 to 1.5 of its time (1 to 32 rows of 32,016
    to 151,669 numbers).

    x_WV: without NaN.
    """

    def whole(x_WV):
        return tuple(lax.top_k(x_WV, k))

    def staged(x_WV):
        return k_largest_in_stages(x_WV, k)

    if x_WV.shape[1] <= BLOCK * k:
        return apart(*whole(x_WV))
    return apart(*lax.platform_dependent(x_WV, cuda=staged, rocm=staged, default=whole))


def k_largest_in_stages(x_WV: Float[Array, "W V"], k: int) -> tuple[Float[Array, "W K"], Int[Array, "W K"]]:
    """`lax.top_k` of rows without NaN, bit for bit, zeros of both signs included: the k blocks with the largest maxima
    hold the k largest numbers, since each of these blocks has a number that comes before any in the other blocks."""
    width = x_WV.shape[1]
    key_WV = jnp.pad(ordered(x_WV), ((0, 0), (0, -width % BLOCK)), constant_values=np.int32(-(2**31)))
    # As integers, since the maximum of zeros of both signs may be either of them.
    most_WB = floats(jnp.max(key_WV.reshape(len(x_WV), -1, BLOCK), axis=2))
    if most_WB.shape[1] <= k:
        raise ValueError(f"rows of {width} have no more than {k} blocks of {BLOCK}: take lax.top_k")
    _, block_WK = apart(*lax.top_k(most_WB, k))
    # In the order of the row, so that equals keep theirs among the candidates.
    block_WK1 = jnp.sort(block_WK, axis=1, stable=False)[:, :, None]
    index_WC = (block_WK1 * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)).reshape(len(x_WV), -1)
    candidate_WC = jnp.take_along_axis(x_WV, index_WC, 1, mode="fill", fill_value=-jnp.inf)
    value_WK, place_WK = apart(*lax.top_k(candidate_WC, k))
    return value_WK, jnp.take_along_axis(index_WC, place_WK, 1)


def apart(value_WK, index_WK):
    """Results that stay as they are: XLA:CPU makes a sort of the whole row of a top-k whose result is sliced. A barrier
    for each, since a program for several partitions cannot be compiled with one around both."""
    return lax.optimization_barrier(value_WK), lax.optimization_barrier(index_WK)


def ordered(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Integers ordered as float32 numbers are, the negative zero before the positive one; see `floats`."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def floats(key: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The numbers of `ordered`."""
    return lax.bitcast_convert_type(key ^ ((key >> 31) & 0x7FFFFFFF), jnp.float32)
