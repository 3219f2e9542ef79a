"""Precision of the matrix products."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax


def precision_of(dtype: jnp.dtype) -> lax.Precision:
    """Full float32 products for float32 inputs (a TPU would round them to bfloat16), the chip's own for 16-bit ones."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT
