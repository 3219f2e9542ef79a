"""Rotary position embedding, "half" convention: feature i of a head turns together with feature i + H/2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mvjax.models.config import ModelConfig
from mvjax.models.rope_scaling import DynamicScaling


def inverse_frequencies(config: ModelConfig, length: int | None = None) -> Float[np.ndarray, " H2"]:
    """Radians per position of each pair of features, float32 [H/2], with the model's scaling.

    length: of the sequence, for dynamic scaling; None: the length that the configuration fixes, else any up to
    max_position. Source: Hugging Face `modeling_rope_utils`.
    """
    scaling, theta, width = config.rope_scaling, np.float32(config.rope_theta), config.head_dim
    if isinstance(scaling, DynamicScaling):
        longest = max(length or scaling.length or 0, config.max_position)
        theta = np.float32(config.rope_theta * scaling.growth(longest, config.max_position) ** (width / (width - 2)))
    inverse_h = (1.0 / theta ** exponents(config)).astype(np.float32)
    if scaling is None or isinstance(scaling, DynamicScaling):
        return inverse_h
    return scaling.scaled(inverse_h, config.rope_theta)


def exponents(config: ModelConfig) -> Float[np.ndarray, " H2"]:
    """Of the base, for each pair of features."""
    return np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)


def rotary_tables(
    config: ModelConfig, positions: Int[Array, "*shape"]
) -> tuple[Float[Array, "*shape H2"], Float[Array, "*shape H2"]]:
    """Cosine and sine of every position's angles, float32 [..., H/2].

    Under dynamic scaling without a fixed length, the length is that of each row of positions (the last axis).
    """
    scaling = config.rope_scaling
    if isinstance(scaling, DynamicScaling) and scaling.length is None:
        longest = jnp.maximum(positions.max(-1, keepdims=True) + 1, config.max_position).astype(jnp.float32)
        growth = scaling.growth(longest, config.max_position) ** (config.head_dim / (config.head_dim - 2))
        inverse = 1.0 / (config.rope_theta * growth[..., None]) ** exponents(config)
    else:
        inverse = inverse_frequencies(config)
    angle = positions.astype(jnp.float32)[..., None] * inverse
    attention = 1.0 if scaling is None else scaling.attention
    if attention == 1.0:
        return jnp.cos(angle), jnp.sin(angle)
    return attention * jnp.cos(angle), attention * jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, axis: int = -1) -> jax.Array:
    """Turn the two halves of `axis` (H) by the angles; cos and sin must broadcast against a half of x.

    Computed in float32, returned in x's dtype.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    turned = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=axis)
    return turned.astype(x.dtype)
