"""Llama 2 and 3, SmolLM2 (arXiv 2302.13971, 2407.21783)."""

from __future__ import annotations

from mvjax.models.arrays import ArraySpec, attention_arrays, pre_norm_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import pre_norm_layer
from mvjax.models.rope_scaling import Llama3Scaling


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """Biases, on all four projections of the attention, where the configuration asks for them."""
    attention = attention_arrays(config, qkv_bias=config.attention_bias, o_bias=config.attention_bias)
    return pre_norm_arrays(config, attention)


def published() -> dict[str, tuple[ModelConfig, int]]:
    """Llama 3.1 and 3.2, SmolLM2."""

    def llama3(embed: int, layers: int, heads: int, ffn: int, *, head_dim: int = 128, stretch: float = 8.0):
        sizes = 128256, embed, layers, heads, 8, head_dim, ffn
        options = {"rope_theta": 5e5, "rope_scaling": Llama3Scaling(stretch, 1.0, 4.0, 8192), "max_position": 131072}
        return ModelConfig("llama", *sizes, tied=stretch > 8, rms_eps=1e-5, **options), 128256

    def smollm2(embed: int, layers: int, heads: int, kv_heads: int, ffn: int):
        sizes = 49152, embed, layers, heads, kv_heads, 64, ffn
        return ModelConfig("llama", *sizes, rope_theta=1e5, rms_eps=1e-5, max_position=8192), 49152

    return {
        "llama-3.2-1b": llama3(2048, 16, 32, 8192, head_dim=64, stretch=32.0),
        "llama-3.2-3b": llama3(3072, 28, 24, 8192, stretch=32.0),
        "llama-3.1-8b": llama3(4096, 32, 32, 14336),
        "llama-3.1-70b": llama3(8192, 80, 64, 28672),
        "smollm2-135m": smollm2(576, 30, 9, 3, 1536),
        "smollm2-360m": smollm2(960, 32, 15, 5, 2560),
        "smollm2-1.7b": smollm2(2048, 24, 32, 32, 8192),
    }


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    layer_arrays=layer_arrays,
    layer=pre_norm_layer,
    published=published,
    defaults={"attention_bias": False, "mlp_bias": False},
    gguf_interleaved=True,
)
