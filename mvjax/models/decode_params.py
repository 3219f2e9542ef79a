"""A decoder's weights as decoding wants them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mvjax.models.decoder import Decoder


def decode_params(decoder: Decoder, *, unroll: bool, dtype) -> dict[str, Any]:
    """A decoder's weights for decoding: Q, K, V in one matrix, gate and up in one, per layer or stacked."""
    config = decoder.config

    def block(layer) -> dict[str, jax.Array]:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = {
            "input_norm": layer.input_layernorm.weight[...],
            "qkv": jnp.concatenate([linear.weight[...] for linear in qkv], axis=-2),
            "o": attention.o_proj.weight[...],
            "post_norm": layer.post_attention_layernorm.weight[...],
            "gate_up": jnp.concatenate([mlp.gate_proj.weight[...], mlp.up_proj.weight[...]], axis=-2),
            "down": mlp.down_proj.weight[...],
        }
        if config.qkv_bias:
            weights["qkv_bias"] = jnp.concatenate([linear.bias[...] for linear in qkv], axis=-1)
        if config.qk_norm:
            weights |= {"q_norm": attention.q_norm.weight[...], "k_norm": attention.k_norm.weight[...]}
        return {name: weight.astype(dtype) for name, weight in weights.items()}

    if config.scan_layers:
        layers = block(decoder.layers)
        if unroll:
            layers = [{name: weight[i] for name, weight in layers.items()} for i in range(config.layers)]
    else:
        layers = [block(layer) for layer in decoder.layers]
        if not unroll:
            layers = {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}
    params = {
        "embed": decoder.embed_tokens.weight[...].astype(dtype),
        "layers": layers,
        "norm": decoder.norm.weight[...].astype(dtype),
    }
    if not config.tied:
        params["head"] = decoder.unembed.astype(dtype)
    return params
