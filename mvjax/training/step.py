"""The training step: gradients of a batch, and what becomes of the state; the same loss without a gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mvjax.language import PARTS
from mvjax.models.placement import Placement
from mvjax.training.batch import StepBatch, step_batch_sharding
from mvjax.training.config import LossConfig
from mvjax.training.loss import Head, LossSums, cross_entropy_on_mesh
from mvjax.training.model import TrainableModel, TrainState
from mvjax.training.rounding import apply_updates
from mvjax.training.state import make_state


def make_update(
    model: TrainableModel, optimizer: optax.GradientTransformation, placement: Placement, config: LossConfig
) -> Any:
    """-> update(state, frozen, batch: StepBatch) -> (state, metrics), jit-compiled with shardings, not yet compiled.

    The loss is the weighted mean over all targets of the step, so micro-batches and devices change it by rounding
    only. A step whose loss or gradient is not finite counts, but leaves weights and optimizer as they were and says so
    in `metrics["finite"]`.
    """
    head = Head(model.tag_ids, model.train_base, config.chunk, config.z_loss)

    def loss(params, frozen, scale, batch: StepBatch):
        hidden_BTD, base_VD, tags_KD = model.forward(params, frozen, *batch[:-1])
        sums = cross_entropy_on_mesh(placement, head, hidden_BTD, base_VD, tags_KD, batch.targets)
        return sums.total * scale, sums

    def gradients(params, frozen, scale, batch: StepBatch):
        value = jax.value_and_grad(loss, has_aux=True)

        def one(micro):
            (_, sums), grads = value(params, frozen, scale, micro)
            return sums, {name: placement.home(x, model.sharding(placement, name)) for name, x in grads.items()}

        if batch.tokens_ABT.shape[0] == 1:
            return one(jax.tree.map(lambda x: x[0], batch))
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zeros = zeros[0], {name: placement.home(x, model.sharding(placement, name)) for name, x in zeros[1].items()}
        return jax.lax.scan(lambda carry, micro: (jax.tree.map(jnp.add, carry, one(micro)), None), zeros, batch)[0]

    def update(state: TrainState, frozen, batch: StepBatch):
        weight = batch.targets.weight_BT.sum()
        sums, grads = gradients(state.params, frozen, 1.0 / jnp.maximum(weight, 1e-9), batch)
        norm = jnp.sqrt(sum(jnp.vdot(g, g, preferred_element_type=jnp.float32) for g in jax.tree.leaves(grads)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
        after, before = (apply_updates(state.params, updates, state.step), opt_state), (state.params, state.opt_state)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), after, before)
        return TrainState(state.step + 1, *new), means(sums, weight) | {"gradient_norm": norm, "finite": finite}

    state = jax.eval_shape(partial(make_state, optimizer), model.params)
    at = model.state_sharding(placement, state)
    inputs = at, model.frozen_sharding(placement), step_batch_sharding(placement)
    return jax.jit(update, donate_argnums=0, in_shardings=inputs, out_shardings=(at, placement.whole))


def make_evaluation(model: TrainableModel, placement: Placement, config: LossConfig) -> Any:
    """-> evaluate(params, frozen, batch: StepBatch) -> LossSums of the batch, jit-compiled with shardings, not yet
    compiled. Without a z-loss."""
    head = Head(model.tag_ids, model.train_base, config.chunk)

    def evaluate(params, frozen, batch: StepBatch) -> LossSums:
        def one(micro):
            hidden_BTD, base_VD, tags_KD = model.forward(params, frozen, *micro[:-1])
            return cross_entropy_on_mesh(placement, head, hidden_BTD, base_VD, tags_KD, micro.targets)

        sums = jax.lax.map(one, batch)
        return jax.tree.map(lambda x: x.sum(0), sums)

    params = {name: model.sharding(placement, name) for name in model.params}
    inputs = params, model.frozen_sharding(placement), step_batch_sharding(placement)
    return jax.jit(evaluate, in_shardings=inputs, out_shardings=placement.whole)


def means(sums: LossSums, weight: Array) -> dict[str, Array]:
    """What a step reports, from its sums; a part without a target is nan."""
    targets = sums.counts_P.sum()
    parts = {}
    for name, sum_P in (("loss", sums.parts_P), ("accuracy", sums.correct_P)):
        parts |= {f"{name}_{part}": sum_P[i] / sums.counts_P[i] for i, part in enumerate(PARTS) if part != "prompt"}
    return {
        "loss": sums.total / jnp.maximum(weight, 1e-9),
        **parts,
        "accuracy": sums.correct_P.sum() / jnp.maximum(targets, 1),
        "targets": targets,
    }
