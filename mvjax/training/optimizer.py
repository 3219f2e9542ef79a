"""AdamW with groups of parameters: the schedule, the tag rows' multiplier, what is decayed."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import optax

from mvjax.training.config import TrainConfig

TAGS = "tags"
"""Group of the control tags' rows; any other group learns at the plain rate."""


def make_schedule(config: TrainConfig, steps: int) -> optax.Schedule:
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
    config: TrainConfig, schedule: optax.Schedule, groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """AdamW over a dict of parameters; `groups` names each parameter's group.

    Clipped by the global norm first. Tag rows take `tag_multiplier` times the step and are not decayed; nor are
    vectors (norms and biases).
    """

    def group_of(params):
        return {name: TAGS if groups[name] == TAGS else "rest" for name in params}

    def decayed(params):
        return {name: groups[name] != TAGS and jax.numpy.ndim(x) >= 2 for name, x in params.items()}

    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.multi_transform({TAGS: optax.scale(config.tag_multiplier), "rest": optax.identity()}, group_of),
        optax.scale_by_learning_rate(schedule),
    )
