"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Q, K and V always have a bias."""

from __future__ import annotations

from mvjax.models.arrays import ArraySpec, attention_arrays, pre_norm_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import pre_norm_layer


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """Those of a pre-norm layer."""
    return pre_norm_arrays(config, attention_arrays(config, qkv_bias=True))


def published() -> dict[str, tuple[ModelConfig, int]]:
    """Qwen2.5."""

    def shape(embed: int, layers: int, heads: int, kv_heads: int, ffn: int, *, head_dim: int = 128, large=False):
        sizes = 152064 if large else 151936, embed, layers, heads, kv_heads, head_dim, ffn
        return ModelConfig("qwen2", *sizes, rope_theta=1e6, tied=not large, max_position=32768), 151665

    return {
        "qwen2.5-0.5b": shape(896, 24, 14, 2, 4864, head_dim=64),
        "qwen2.5-1.5b": shape(1536, 28, 12, 2, 8960),
        "qwen2.5-3b": shape(2048, 36, 16, 2, 11008),
        "qwen2.5-7b": shape(3584, 28, 28, 4, 18944, large=True),
        "qwen2.5-14b": shape(5120, 48, 40, 8, 13824, large=True),
        "qwen2.5-32b": shape(5120, 64, 40, 8, 27648, large=True),
    }


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    layer_arrays=layer_arrays,
    layer=pre_norm_layer,
    published=published,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "use_sliding_window": False},
)
