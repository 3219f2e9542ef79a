"""The arithmetic of a layer, written once for training and decoding.

Training computes on [B, T, D] with modules that may carry adapters and lie on a mesh; decoding on [D, rows] with
packed weights. Both give their own `LayerOps` to the same functions. A family's layer (`mvjax.models.families`) is
made of these functions, or of its own where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@runtime_checkable
class LayerOps(Protocol):
    """What a layer is made of; modules are named as in `mvjax.models.arrays`."""

    def linear(self, x: Array, *modules: str) -> Sequence[Array]:
        """The product of x with each of these projections, bias included; those of one pack together."""

    def norm(self, module: str, x: Array) -> Array:
        """RMSNorm over the features of x, or of each head."""

    def heads(self, x: Array, axis: str) -> Array:
        """A projection split into heads; `axis` is "heads" or "kv_heads"."""

    def rotate(self, x: Array) -> Array:
        """Rotary embedding of each head."""

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        """Multiverse attention of queries over all visible keys, the heads joined again."""

    def sublayer(self, function: Callable[[Array], Array], x: Array) -> Array:
        """function(x), which sees the whole text where a mesh splits it between sublayers."""


Project = Callable[[LayerOps, Array], tuple[Array, Array, Array]]


def split_heads(ops: LayerOps, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Projected queries, keys and values as heads."""
    return ops.heads(q, "heads"), ops.heads(k, "kv_heads"), ops.heads(v, "kv_heads")


def project(ops: LayerOps, x: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values as heads, before the rotation."""
    return split_heads(ops, *ops.linear(x, *QKV))


def project_with_head_norms(ops: LayerOps, x: Array) -> tuple[Array, Array, Array]:
    """The same, with an RMSNorm of each head's queries and keys."""
    q, k, v = project(ops, x)
    return ops.norm("self_attn.q_norm", q), ops.norm("self_attn.k_norm", k), v


def attention(ops: LayerOps, x: Array, project: Project = project) -> Array:
    """Grouped-query attention with rotary positions."""
    q, k, v = project(ops, x)
    return ops.linear(ops.attend(ops.rotate(q), ops.rotate(k), v), "self_attn.o_proj")[0]


def feed_forward(ops: LayerOps, x: Array) -> Array:
    """down(silu(gate(x)) * up(x))."""
    gate, up = ops.linear(x, "mlp.gate_proj", "mlp.up_proj")
    return ops.linear(jax.nn.silu(gate) * up, "mlp.down_proj")[0]


def pre_norm_layer(ops: LayerOps, x: Array, project: Project = project) -> Array:
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""
    x = x + ops.sublayer(lambda x: attention(ops, x, project), ops.norm("input_layernorm", x))
    return x + ops.sublayer(lambda x: feed_forward(ops, x), ops.norm("post_attention_layernorm", x))


def rms_norm(
    x: Float[Array, "..."], weight: Float[Array, " D"], eps: float, axis: int = -1, over: str | None = None
) -> Float[Array, "..."]:
    """x / sqrt(mean(x^2) + eps) * weight over an axis from the end, computed in float32, returned in x's dtype.

    over: axis of a mesh over which the features are split into equal parts, x and weight being the part of a device.
    """
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide * wide, axis=axis, keepdims=True)
    if over is not None:
        mean = jax.lax.pmean(mean, over)
    wide = wide * jax.lax.rsqrt(mean + eps)
    return (wide * weight.astype(jnp.float32).reshape(-1, *(1,) * (-1 - axis))).astype(x.dtype)
