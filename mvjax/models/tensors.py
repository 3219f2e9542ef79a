"""The tensors of a model's checkpoint, under their Hugging Face names; all follows from its list of arrays."""

from __future__ import annotations

from typing import Any

from mvjax.errors import UserError
from mvjax.models.arrays import ArraySpec, outer_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families import find_family
from mvjax.models.hf_config import read
from mvjax.weights.checkpoint import Checkpoint, counted, lazily, listed

HEAD = "lm_head.weight"
DERIVED = (".rotary_emb.inv_freq", ".attn.masked_bias")
"""Ends of the names of buffers that old checkpoints hold beside the weights; they follow from the configuration."""


def layer_arrays(config: ModelConfig) -> tuple[ArraySpec, ...]:
    """The arrays of one layer."""
    return find_family(config.family).layer_arrays(config)


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters, the output matrix counted once where it is tied."""
    outer = sum(array.size for array in outer_arrays(config))
    return outer + config.layers * sum(array.size for array in layer_arrays(config))


def outer_name(name: str) -> str:
    """Checkpoint name of an array outside the layers."""
    return name if name == HEAD else f"model.{name}"


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model."""
    embed, *rest = outer_arrays(config)
    shapes = {outer_name(embed.name): embed.shape}
    layer = layer_arrays(config)
    for number in range(config.layers):
        shapes |= {f"model.layers.{number}.{array.name}": array.shape for array in layer}
    return shapes | {outer_name(array.name): array.shape for array in rest}


def hf_names(path: tuple[Any, ...], config: ModelConfig) -> list[str]:
    """Checkpoint names of the parameter at `path` in a Decoder: one, or one per layer for a stacked parameter."""
    parts = [str(part) for part in path]
    if is_stacked(path, config):
        return [".".join(["model", "layers", str(layer), *parts[1:]]) for layer in range(config.layers)]
    return [outer_name(".".join(parts))]


def is_stacked(path: tuple[Any, ...], config: ModelConfig) -> bool:
    """Whether the parameter at a path of a Decoder holds a tensor per layer."""
    return path[0] == "layers" and config.scan_layers


def check_tensors(checkpoint: Checkpoint) -> ModelConfig:
    """The shape of a model; UserError unless its tensors are those of its configuration, in name and shape.

    Derived buffers may be there as well, and the output matrix of a tied model.
    """
    where = checkpoint.source or "the model"
    config, found = read(checkpoint.config, where), lazily(checkpoint.tensors)
    if config.layers > len(found):
        raise UserError(
            f"{where}: {config.layers} layers in the configuration, only {len(found)} tensors; fetch the model again"
        )
    expected = expected_shapes(config)
    if missing := [name for name in expected if name not in found]:
        raise UserError(f"{where}: {counted(missing)} missing: {listed(missing)}; fetch the model again")
    ignored = {HEAD} if config.tied else set()
    extra = [name for name in found if name not in expected and name not in ignored and not name.endswith(DERIVED)]
    if extra:
        raise UserError(
            f"{where}: {counted(extra)} that a {config.family} model of this configuration lacks: {listed(extra)}"
        )
    wrong = [name for name, shape in expected.items() if found[name].shape != shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{where}: {name} has shape {found[name].shape}, the configuration says {expected[name]}"
            + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
            + "; configuration and weights belong to different models"
        )
    return config
