"""A parameter described once: shape, type, logical axes, initialiser. All else about it follows from that.

Abstract parameters come from `nnx.eval_shape` over the module, shardings from their axes and the table of
`mvjax.models.placement`, initialisation from running the same description under `jit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

Initialiser = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]


def normal(scale: float) -> Initialiser:
    """Gaussian numbers of a standard deviation."""
    return lambda key, shape, dtype: scale * jax.random.normal(key, shape, dtype)


def constant(value: float) -> Initialiser:
    """One number everywhere."""
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


@dataclass(frozen=True)
class ParamFactory:
    """Makes the parameters of a module, each from its description."""

    rngs: nnx.Rngs
    """Random keys for the initialisers."""
    dtype: jnp.dtype
    """Element type of the parameters."""
    layers: int | None = None
    """Layers whose parameters are stacked along a leading axis "layers"; None: one layer's."""

    def __call__(
        self, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Initialiser, kind: type[nnx.Param] = nnx.Param
    ) -> nnx.Param:
        """The parameter; its `axes` name every axis, see `mvjax.models.placement.RULES`."""
        if self.layers is not None:
            shape, axes = (self.layers, *shape), ("layers", *axes)
        return kind(init(self.rngs.params(), shape, self.dtype), axes=axes)
