"""Hashes of the elements of arrays: made where they lie, the same on any mesh."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

GOLDEN = 0x9E3779B1
"""Spreads neighbouring numbers over 32 bits (Knuth)."""


def places(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The number of each element in row-major order, modulo 2^32."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * jnp.uint32(size % 2**32) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    return place


def mixed(x: Any) -> Any:
    """Each number's hash: every bit of it depends on every bit of the number (the end of MurmurHash3). x: uint32, an
    array of JAX or of NumPy, as the result is."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
