"""Qwen3 (arXiv 2505.09388): queries and keys are normalised per head; a head is 128 wide where nothing else is said."""

from __future__ import annotations

from functools import partial

from mvjax.models.arrays import ArraySpec, attention_arrays, pre_norm_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families.family import Family
from mvjax.models.layers import pre_norm_layer, project_with_head_norms


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """Norms of the width of a head for Q and K, shared by all heads."""
    bias, width = config.attention_bias, config.head_dim
    return pre_norm_arrays(config, attention_arrays(config, qkv_bias=bias, o_bias=bias, qk_norm=(width, width)))


def published() -> dict[str, tuple[ModelConfig, int]]:
    """Qwen3, dense."""

    def shape(embed: int, layers: int, heads: int, ffn: int, *, tied: bool = False):
        sizes = 151936, embed, layers, heads, 8, 128, ffn
        return ModelConfig("qwen3", *sizes, rope_theta=1e6, tied=tied, max_position=40960), 151669

    return {
        "qwen3-0.6b": shape(1024, 28, 16, 3072, tied=True),
        "qwen3-1.7b": shape(2048, 28, 16, 6144, tied=True),
        "qwen3-4b": shape(2560, 36, 32, 9728, tied=True),
        "qwen3-8b": shape(4096, 36, 32, 12288),
        "qwen3-14b": shape(5120, 40, 40, 17408),
        "qwen3-32b": shape(5120, 64, 64, 25600),
    }


QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    layer_arrays=layer_arrays,
    layer=partial(pre_norm_layer, project=project_with_head_norms),
    published=published,
    defaults={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "use_sliding_window": False,
    },
)
