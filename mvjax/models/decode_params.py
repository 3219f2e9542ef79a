"""A decoder's weights as decoding uses them: projections of the same input in one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mvjax.models.arrays import ArraySpec
from mvjax.models.config import ModelConfig
from mvjax.models.decoder import Block, Decoder
from mvjax.models.tensors import layer_arrays


def packed_rows(config: ModelConfig) -> dict[str, tuple[str, int]]:
    """Of each projection of a layer: the pack that holds it, and its number of rows there."""
    weights = (array for array in layer_arrays(config) if array.kind == "weight" and len(array.shape) == 2)
    return {array.module: (array.pack or array.module, array.shape[0]) for array in weights}


def layer_packs(config: ModelConfig) -> dict[str, list[ArraySpec]]:
    """The arrays of a layer as they are joined: by `PACK.weight`, `PACK.bias` or the name of a norm."""
    packs: dict[str, list[ArraySpec]] = {}
    for array in layer_arrays(config):
        packs.setdefault(f"{array.pack or array.module}.{array.kind}", []).append(array)
    return packs


def decode_params(decoder: Decoder, *, unroll: bool, dtype) -> dict[str, Any]:
    """A decoder's weights for decoding: `embed` and `head` [V, D], `norm` [D], and `layers`.

    layers: arrays by the names of `layer_packs`, projections of one pack joined along their rows; a dictionary per
    layer (unroll), or one with a leading layer axis.
    """
    config = decoder.config
    packs = layer_packs(config)

    def block(layer: Block, index: int | None = None) -> dict[str, jax.Array]:
        return {name: joined(layer, arrays, index).astype(dtype) for name, arrays in packs.items()}

    layers: Any
    if not config.scan_layers:
        layers = [block(layer) for layer in decoder.layers]
        if not unroll:
            layers = {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}
    elif unroll:
        layers = [block(decoder.layers, index) for index in range(config.layers)]
    else:
        layers = block(decoder.layers)
    params = {
        "embed": decoder.embed_tokens.weight[...].astype(dtype),
        "layers": layers,
        "norm": decoder.norm.weight[...].astype(dtype),
    }
    if not config.tied:
        params["head"] = decoder.head.matrix().astype(dtype)
    return params


def joined(layer: Block, arrays: Sequence[ArraySpec], index: int | None = None) -> jax.Array:
    """Arrays of a layer, of stacked layers, or of one (`index`) among stacked layers, one after the other along their
    first axis."""
    found = [getattr(layer.find(array.module), array.kind)[...] for array in arrays]
    if index is not None:  # Before they are joined, so that the joined arrays of all layers never lie beside them.
        found = [array[index] for array in found]
    return found[0] if len(found) == 1 else jnp.concatenate(found, axis=-len(arrays[0].shape))
