"""Llama 2 and 3, SmolLM2 (arXiv 2302.13971, 2407.21783)."""

from __future__ import annotations

from mvjax.models.arrays import ArraySpec, attention_arrays, pre_norm_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import pre_norm_layer


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """Biases, on all four projections of the attention, where the configuration asks for them."""
    attention = attention_arrays(config, qkv_bias=config.attention_bias, o_bias=config.attention_bias)
    return pre_norm_arrays(config, attention)


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    layer_arrays=layer_arrays,
    layer=pre_norm_layer,
    defaults={"attention_bias": False, "mlp_bias": False},
    gguf_interleaved=True,
)
