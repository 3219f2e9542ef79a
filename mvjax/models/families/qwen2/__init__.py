"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Q, K and V always have a bias."""

from __future__ import annotations

from mvjax.models.arrays import ArraySpec, attention_arrays, pre_norm_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import pre_norm_layer


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """Those of a pre-norm layer."""
    return pre_norm_arrays(config, attention_arrays(config, qkv_bias=True))


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    layer_arrays=layer_arrays,
    layer=pre_norm_layer,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "use_sliding_window": False},
)
