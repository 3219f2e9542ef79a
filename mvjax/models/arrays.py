"""The arrays of a model, each described once: name, shape, logical axes, initialiser.

All else follows from the descriptions: the parameters of the module (abstract ones through `nnx.eval_shape`), their
shardings (the axes and the table of `mvjax.models.placement`), the tensors of a checkpoint and their names
(`mvjax.models.tensors`), the packing for decoding (`mvjax.models.decode_params`), the counts of parameters and FLOPs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, constant, normal

from mvjax.models.config import ModelConfig


@dataclass(frozen=True)
class ArraySpec:
    """One array of a model."""

    module: str
    """Path of the module that owns it, as `self_attn.q_proj`: in a layer, or in the model outside the layers."""
    kind: str
    """Name in the module: weight or bias."""
    shape: tuple[int, ...]
    """Its shape; a projection's weight is [out, in]."""
    axes: tuple[str | None, ...]
    """What each axis means, see `mvjax.models.placement.RULES`."""
    init: Initializer
    """Makes its first value."""
    gguf: str
    """Name of the module in a GGUF file, as `attn_q`."""
    pack: str = ""
    """Decoding joins the projections with the same pack along their first axis: one product instead of several."""

    @property
    def name(self) -> str:
        """Module and kind, as `self_attn.q_proj.weight`."""
        return f"{self.module}.{self.kind}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def linear(
    module: str,
    gguf: str,
    shape: tuple[int, int],
    axes: tuple[str, str],
    *,
    bias: bool = False,
    pack: str = "",
) -> tuple[ArraySpec, ...]:
    """The weight [out, in] of a projection, and its bias [out]."""
    weight = ArraySpec(module, "weight", shape, axes, normal(0.02), gguf, pack)
    return (weight, ArraySpec(module, "bias", shape[:1], axes[:1], constant(0), gguf, pack)) if bias else (weight,)


def norm(module: str, gguf: str, width: int) -> tuple[ArraySpec, ...]:
    """The weight of an RMSNorm."""
    return (ArraySpec(module, "weight", (width,), (None,), constant(1), gguf),)


def attention_arrays(
    config: ModelConfig, *, qkv_bias: bool, o_bias: bool = False, qk_norm: tuple[int, int] | None = None
) -> tuple[ArraySpec, ...]:
    """Grouped-query attention. qk_norm: widths of the norms of queries and keys, where the family has them."""
    q, kv, D = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.embed
    packed = {"bias": qkv_bias, "pack": "self_attn.qkv"}
    arrays = (
        *linear("self_attn.q_proj", "attn_q", (q, D), ("heads", "embed"), **packed),
        *linear("self_attn.k_proj", "attn_k", (kv, D), ("kv_heads", "embed"), **packed),
        *linear("self_attn.v_proj", "attn_v", (kv, D), ("kv_heads", "embed"), **packed),
        *linear("self_attn.o_proj", "attn_output", (D, q), ("embed", "heads"), bias=o_bias),
    )
    if qk_norm is not None:
        arrays += norm("self_attn.q_norm", "attn_q_norm", qk_norm[0])
        arrays += norm("self_attn.k_norm", "attn_k_norm", qk_norm[1])
    return arrays


def feed_forward_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """The gated feed-forward layer."""
    D, F = config.embed, config.ffn
    return (
        *linear("mlp.gate_proj", "ffn_gate", (F, D), ("ffn", "embed"), pack="mlp.gate_up"),
        *linear("mlp.up_proj", "ffn_up", (F, D), ("ffn", "embed"), pack="mlp.gate_up"),
        *linear("mlp.down_proj", "ffn_down", (D, F), ("embed", "ffn")),
    )


def pre_norm_arrays(config: ModelConfig, attention: tuple[ArraySpec, ...]) -> tuple[ArraySpec, ...]:
    """A layer with a norm before attention and one before the feed-forward layer."""
    return (
        *norm("input_layernorm", "attn_norm", config.embed),
        *attention,
        *norm("post_attention_layernorm", "ffn_norm", config.embed),
        *feed_forward_arrays(config),
    )


def outer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """What is outside the layers: embedding, last norm, and the output matrix where it is not the embedding."""
    matrix = (config.vocab_size, config.embed), ("vocab", "embed")
    head = () if config.tied else linear("lm_head", "output", *matrix)
    return (
        *linear("embed_tokens", "token_embd", *matrix),
        *norm("norm", "output_norm", config.embed),
        *head,
    )


@dataclass(frozen=True)
class ParamFactory:
    """Makes parameters from their descriptions."""

    rngs: nnx.Rngs
    """Random keys for the initialisers."""
    dtype: jnp.dtype
    """Element type of the parameters."""
    layers: int | None = None
    """Layers whose parameters are stacked along a leading axis "layers"; None: one layer's."""

    def __call__(self, array: ArraySpec) -> nnx.Param:
        """The parameter, with its logical axes as metadata."""
        shape, axes = ((), ()) if self.layers is None else ((self.layers,), ("layers",))
        value = array.init(self.rngs.params(), (*shape, *array.shape), self.dtype)
        return nnx.Param(value, axes=(*axes, *array.axes))
