"""The operations of a layer in decoding, on columns [D, rows] with packed weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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


class AnyLayer(Mapping[str, Array]):
    """The weights of a layer whose number only the device knows, among layers with arrays of their own.

    Vectors come from a stack of them. A matrix is multiplied where it lies (a `switch` over the layers), since a copy
    of it would cost more than its product.
    """

    def __init__(self, layers: Sequence[Mapping[str, Array]]):
        self.layers = layers
        vectors = [name for name, array in layers[0].items() if array.ndim == 1 and not name.endswith(".scale")]
        self.vectors = {name: jnp.stack([layer[name] for layer in layers]) for name in vectors}
        self.number: Any = None

    def at(self, number: Array) -> AnyLayer:
        """Layer `number`."""
        layer = copy.copy(self)
        layer.number = number
        return layer

    def __getitem__(self, name: str) -> Array:
        return self.vectors[name][self.number]

    def __iter__(self) -> Iterator[str]:
        return iter(self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def times(self, pack: str, x_IW: Array) -> Array:
        """`times` with a matrix of the layer."""
        return jax.lax.switch(self.number, [partial(times, layer, pack) for layer in self.layers], x_IW)


def times(weights: Mapping[str, Array], pack: str, x_IW: Array) -> Array:
    """The product of x with the matrix of a pack, in x's type, no bias yet."""
    if isinstance(weights, AnyLayer):
        return weights.times(pack, x_IW)
    return product(weights[f"{pack}.weight"], weights.get(f"{pack}.scale"), x_IW, x_IW.dtype)


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
        return times(self.weights, pack, x)

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
