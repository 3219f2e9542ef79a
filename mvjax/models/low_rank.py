"""Linear layers with the low-rank update of LoRA (arXiv 2106.09685), with backward passes of their own.

The update B A can be folded into the weight before the product, or its product can be added to the output. Folded, a
layer writes one array of the weight's size in place of one of the output's, in both directions, and skips a product;
but the sum is rounded to the weight's type, where a small update in bfloat16 would be lost.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def folds(tokens: int, inputs: int, dtype) -> bool:
    """Whether folding is exact enough and cheaper, for a number of tokens on each device and of inputs of the layer."""
    return jnp.dtype(dtype) == jnp.float32 and tokens >= inputs


@jax.custom_vjp
def folded(
    x: Float[Array, "... i"], w: Float[Array, "o i"], a: Float[Array, "r i"], b: Float[Array, "o r"]
) -> Float[Array, "... o"]:
    """x (W + B A)^T; all of one type."""
    return jnp.einsum("...i,oi->...o", x, w + b @ a)


def _folded_forward(x, w, a, b):
    return folded(x, w, a, b), (x, w, a, b)


def _folded_backward(saved, grad):
    # The folded weight is made again: kept, it would be a copy of all weights. W's gradient is dead code where W is
    # frozen.
    x, w, a, b = saved
    x_grad = jnp.einsum("...o,oi->...i", grad, w + b @ a)
    low = jnp.einsum("...i,ri->...r", x, a)
    return x_grad, jnp.einsum("to,ti->oi", _flat(grad), _flat(x)), *_update_grads(x, low, _low_grad(grad, b), grad)


folded.defvjp(_folded_forward, _folded_backward)


@jax.custom_vjp
def low_rank(x: Float[Array, "... i"], a: Float[Array, "r i"], b: Float[Array, "o r"]) -> Float[Array, "... o"]:
    """x A^T B^T, the update that B A makes to a linear layer's output; all in the dtype of x."""
    return _low_rank_forward(x, a, b)[0]


def _low_rank_forward(x, a, b):
    low = jnp.einsum("...i,ri->...r", x, a)
    return jnp.einsum("...r,or->...o", low, b), (x, low, a, b)


def _low_rank_backward(saved, grad):
    x, low, a, b = saved
    low_grad = _low_grad(grad, b)
    return jnp.einsum("...r,ri->...i", low_grad, a), *_update_grads(x, low, low_grad, grad)


low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def _low_grad(grad, b):
    return jnp.einsum("...o,or->...r", grad, b)


def _update_grads(x, low, low_grad, grad):
    """Gradients of A and B."""
    # The rule that jax derives for b contracts (grad, low) in this order, for which XLA:CPU writes out the transpose
    # of grad: [tokens, o] numbers in strides, a fifth of a training step's time. Here only [tokens, r] is turned.
    b_grad = jnp.einsum("tr,to->ro", _flat(low), _flat(grad)).T
    return jnp.einsum("tr,ti->ri", _flat(low_grad), _flat(x)), b_grad


def _flat(x):
    return x.reshape(-1, x.shape[-1])
