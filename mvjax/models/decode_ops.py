"""The operations of a layer in decoding, on columns [D, rows] with packed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mvjax.models.config import ModelConfig
from mvjax.models.layers import rms_norm
from mvjax.models.rotary import rotate


def product(w_OI: Array, scale_O: Array | None, x_IW: Array, dtype: Any) -> Array:
    """A matrix times columns [O, W]. Of a quantised one, whose rows have scales, the product is scaled: its numbers go
    into the multiplication one by one, and no array of them in x's type is made."""
    if scale_O is None:
        return jnp.matmul(w_OI, x_IW, preferred_element_type=dtype)
    y_OW = jnp.matmul(w_OI.astype(x_IW.dtype), x_IW, preferred_element_type=jnp.float32)
    return (y_OW * scale_O[:, None]).astype(dtype)


@dataclass(frozen=True)
class DecodeOps:
    """The operations of a layer on columns, features first; see `mvjax.models.layers.LayerOps`."""

    config: ModelConfig
    """Of the model."""
    weights: Mapping[str, jax.Array]
    """Of the layer, as `decode_params` packs them."""
    packs: Mapping[str, tuple[str, int]]
    """`packed_rows` of the model."""
    cos_HW: jax.Array
    """Cosines of the rotary angles, half a head wide."""
    sin_HW: jax.Array
    """Their sines."""
    write_and_attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    """Puts new keys and values, heads first, where they belong; attention of the queries over all that is visible."""

    def linear(self, x: jax.Array, *modules: str) -> list[jax.Array]:
        pack = self.packs[modules[0]][0]
        y_OW = self.product(pack, x)
        if (bias_O := self.weights.get(f"{pack}.bias")) is not None:
            y_OW = y_OW + bias_O[:, None]
        ends = np.cumsum([self.packs[module][1] for module in modules])
        return jnp.split(y_OW, ends[:-1].tolist())

    def product(self, pack: str, x: jax.Array) -> jax.Array:
        """The product of x with the matrix of a pack, no bias yet."""
        return product(self.weights[f"{pack}.weight"], self.weights.get(f"{pack}.scale"), x, x.dtype)

    def norm(self, module: str, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.weights[f"{module}.weight"], self.config.rms_eps, axis=-2)

    def heads(self, x: jax.Array, axis: str) -> jax.Array:
        return x.reshape(-1, self.config.head_dim, x.shape[1])

    def rotate(self, x: jax.Array) -> jax.Array:
        return rotate(x, self.cos_HW, self.sin_HW, axis=-2)

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return self.write_and_attend(q, k, v)

    def sublayer(self, function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        return function(x)
