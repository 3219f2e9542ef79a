"""Keys and values in int8: each slot of each head has a scale, so that what is written depends on nothing else."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LARGEST = 127.0


def quantise(x_YH: Float[Array, "*Y H"]) -> tuple[Int8[Array, "*Y H"], Float[Array, "*Y"]]:
    """Vectors as int8, rounded to the nearest, and their scales, float32: the largest magnitude over 127."""
    x_YH = x_YH.astype(jnp.float32)
    scale_Y = jnp.abs(x_YH).max(-1) * (1 / LARGEST)  # A division could become this in one program and not in another.
    # A scale below the normal numbers has too few digits; zero stands for it.
    scale_Y = jnp.where(scale_Y >= jnp.finfo(jnp.float32).tiny, scale_Y, 0.0)
    return jnp.rint(x_YH / jnp.where(scale_Y == 0, jnp.inf, scale_Y)[..., None]).astype(jnp.int8), scale_Y
