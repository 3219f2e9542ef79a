"""The model that a run starts from: its description, and its weights where and when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from mvjax.models import Decoder, LoraConfig, ModelConfig, add_lora, from_checkpoint
from mvjax.models.hf_config import from_hf
from mvjax.models.placement import Placement
from mvjax.training.config import TrainConfig
from mvjax.training.model import TrainableModel, make_trainable
from mvjax.weights import Checkpoint

Initial = Callable[[], dict[str, Array]]
"""Makes the trained parameters before the first step, anew each time that it is called."""


def describe_model(config: TrainConfig, shape: ModelConfig, tag_ids: Sequence[int], placement: Placement) -> Decoder:
    """The decoder to train, with shapes for arrays; for LoRA, with adapters.

    tag_ids: rows of the control tags.
    """

    def make() -> Decoder:
        decoder = Decoder(
            replace(shape, scan_layers=config.model.scan_layers),
            **options(config, placement),
            rngs=nnx.Rngs(params=0),
        )
        return add_lora(decoder, lora(config, tag_ids)) if config.lora.rank else decoder

    return nnx.eval_shape(make)


def load_model(
    config: TrainConfig, checkpoint: Checkpoint, tag_ids: Sequence[int], placement: Placement
) -> tuple[TrainableModel, Initial]:
    """The model of a checkpoint with rows for the tags, and what makes its trained parameters.

    The model has shapes for trained parameters and arrays for frozen ones. So a run holds its trained parameters once,
    in its state, and one that resumes reads none of them from the base model.

    Raises:
        UserError: the mesh does not divide the model, adapters do not fit it, or, later, weights cannot be read.
    """

    def load() -> Decoder:
        return from_checkpoint(checkpoint, scan_layers=config.model.scan_layers, **options(config, placement))

    if not config.lora.rank:
        model = make_trainable(describe_model(config, from_hf(checkpoint.config), tag_ids, placement), tag_ids)
        return model, lambda: make_trainable(load(), tag_ids).params
    base = load()

    def adapted() -> TrainableModel:
        return make_trainable(add_lora(nnx.clone(base), lora(config, tag_ids), seed=config.seed))

    model = adapted()
    shapes: dict[str, Any] = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in model.params.items()}
    return replace(model, params=shapes), lambda: adapted().params


def options(config: TrainConfig, placement: Placement) -> dict:
    """Of the decoder."""
    dtype = jnp.dtype(config.model.dtype)
    return {
        "dtype": dtype,
        "param_dtype": dtype if config.lora.rank else jnp.dtype(config.model.master_dtype),
        "remat": config.model.remat,
        "backend": config.model.attention,
        "placement": placement,
    }


def lora(config: TrainConfig, tag_ids: Sequence[int]) -> LoraConfig:
    """The adapters."""
    return LoraConfig(config.lora.rank, config.lora.alpha, config.lora.targets, tuple(tag_ids))
