"""OLMo-2 (arXiv 2501.00656): norms after each sublayer, and of queries and keys over the whole projection."""

from __future__ import annotations

from jaxtyping import Array

from mvjax.models.arrays import ArraySpec, attention_arrays, feed_forward_arrays, norm
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import QKV, LayerOps, attention, feed_forward, split_heads


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """No norm before a sublayer; norms of all query heads and of all key heads together."""
    bias, widths = config.attention_bias, (config.heads * config.head_dim, config.kv_heads * config.head_dim)
    return (
        *attention_arrays(config, qkv_bias=bias, o_bias=bias, qk_norm=widths),
        *norm("post_attention_layernorm", "post_attention_norm", config.embed),
        *feed_forward_arrays(config),
        *norm("post_feedforward_layernorm", "post_ffw_norm", config.embed),
    )


def project(ops: LayerOps, x: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values as heads; queries and keys normalised before they are split."""
    q, k, v = ops.linear(x, *QKV)
    return split_heads(ops, ops.norm("self_attn.q_norm", q), ops.norm("self_attn.k_norm", k), v)


def layer(ops: LayerOps, x: Array) -> Array:
    """x + norm(attention(x)), then x + norm(feed_forward(x))."""
    x = x + ops.norm("post_attention_layernorm", ops.sublayer(lambda x: attention(ops, x, project), x))
    return x + ops.norm("post_feedforward_layernorm", ops.sublayer(lambda x: feed_forward(ops, x), x))


def published() -> dict[str, tuple[ModelConfig, int]]:
    """OLMo-2 1124 and 0325."""

    def shape(embed: int, layers: int, heads: int, kv_heads: int, ffn: int):
        sizes = 100352, embed, layers, heads, kv_heads, 128, ffn
        return ModelConfig("olmo2", *sizes, rope_theta=5e5, tied=False, max_position=4096), 100278

    return {
        "olmo2-1b": shape(2048, 16, 16, 16, 8192),
        "olmo2-7b": shape(4096, 32, 32, 32, 11008),
        "olmo2-13b": shape(5120, 40, 40, 40, 13824),
        "olmo2-32b": shape(5120, 64, 40, 8, 27648),
    }


OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    layer_arrays=layer_arrays,
    layer=layer,
    published=published,
    defaults={"attention_bias": False, "rms_norm_eps": 1e-5},
)
