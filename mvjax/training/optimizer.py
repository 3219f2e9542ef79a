"""AdamW, its schedule, and the steps of the control tags' rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from mvjax.training.config import OptimizerConfig
from mvjax.training.model import TAGS, TrainableModel


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 over the warm-up's share of `steps`, then cosine to the final rate."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1) if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.learning_rate * config.final_learning_rate,
    )


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, model: TrainableModel
) -> optax.GradientTransformation:
    """AdamW over a model's parameters.

    Clipped by the global norm first. Norms and biases are not decayed, nor are tag rows that are parameters of their
    own. Tag rows take `tag_multiplier` times Adam's step, whether they are parameters of their own or rows of a trained
    matrix; there they are decayed with the matrix, at its rate.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.stateless(partial(scale_tags, config.tag_multiplier, model)) if model.has_tags else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, model.decayed),
        optax.scale_by_learning_rate(schedule),
    )


def scale_tags(factor: float, model: TrainableModel, updates: dict[str, Array], _: Any) -> dict[str, Array]:
    """Updates with those of the tag rows multiplied."""
    if factor == 1.0:
        return updates

    def scaled(name: str, update: Array) -> Array:
        if model.groups[name] == TAGS:
            return factor * update
        if name not in model.tag_rows:
            return update
        # A product with every row, not a scatter: it stays where the rows lie, and is part of Adam's own loop.
        is_tag_V = jnp.isin(jnp.arange(update.shape[0]), jnp.asarray(model.tag_rows[name]))
        return update * jnp.where(is_tag_V, factor, 1.0).astype(update.dtype)[:, None]

    return {name: scaled(name, update) for name, update in updates.items()}
