"""Rotary position embedding, "half" convention: feature i of a head turns together with feature i + H/2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mvjax.models.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians per position of each pair of features, float32 [H/2], with Llama 3's stretch where the model has it.

    Source: Hugging Face `modeling_rope_utils`, types "default" and "llama3".
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    inverse = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return inverse
    keep = llama3_ramp(scaling, 2 * np.pi / inverse)
    return ((1 - keep) * inverse / scaling.factor + keep * inverse).astype(np.float32)


def llama3_ramp(scaling: RopeScaling, wavelength_h: Float[np.ndarray, " h"]) -> Float[np.ndarray, " h"]:
    """Of each wavelength: 1 where its frequency stays, 0 where it is stretched in full, a ramp between."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((scaling.original_max_position / wavelength_h - low) / (high - low), 0.0, 1.0)


def rotary_tables(
    config: ModelConfig, positions: Int[Array, "*shape"]
) -> tuple[Float[Array, "*shape H2"], Float[Array, "*shape H2"]]:
    """Cosine and sine of every position's angles, float32 [..., H/2]."""
    angle = positions.astype(jnp.float32)[..., None] * inverse_frequencies(config)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, axis: int = -1) -> jax.Array:
    """Turn the two halves of `axis` (H) by the angles; cos and sin must broadcast against a half of x.

    Computed in float32, returned in x's dtype.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    turned = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=axis)
    return turned.astype(x.dtype)
