"""The low-rank product of LoRA (arXiv 2106.09685), with a backward pass that transposes only small arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def low_rank(x: Float[Array, "... i"], a: Float[Array, "r i"], b: Float[Array, "o r"]) -> Float[Array, "... o"]:
    """x A^T B^T, the update that B A makes to a linear layer's output; all in the dtype of x."""
    return _forward(x, a, b)[0]


def _forward(x, a, b):
    low = jnp.einsum("...i,ri->...r", x, a)
    return jnp.einsum("...r,or->...o", low, b), (x, low, a, b)


def _backward(saved, grad):
    # The rule that jax derives for b contracts (grad, low) in this order, for which XLA:CPU writes out the transpose
    # of grad: [tokens, o] numbers in strides, a fifth of a training step's time. Here only [tokens, r] is turned.
    x, low, a, b = saved
    low_grad = jnp.einsum("...o,or->...r", grad, b)
    b_grad = jnp.einsum("tr,to->ro", low.reshape(-1, low.shape[-1]), grad.reshape(-1, grad.shape[-1])).T
    a_grad = jnp.einsum("tr,ti->ri", low_grad.reshape(-1, low.shape[-1]), x.reshape(-1, x.shape[-1]))
    return jnp.einsum("...r,ri->...i", low_grad, a), a_grad, b_grad


low_rank.defvjp(_forward, _backward)
