"""One training step as a pure function, jit-compiled over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from mvjax.language import PARTS
from mvjax.models.placement import Placement
from mvjax.training.loss import Head, LossSums, Targets, cross_entropy_on_mesh
from mvjax.training.mesh import batch_sharding
from mvjax.training.model import TrainableModel


class TrainState(NamedTuple):
    """What a step changes, and all that a checkpoint must hold."""

    step: Int[Array, ""]
    """Steps done."""
    params: dict[str, Array]
    """Trained parameters (float32, or bfloat16 where the configuration says so)."""
    opt_state: optax.OptState
    """State of the optimizer."""


class StepBatch(NamedTuple):
    """A step's rows, split into micro-batches: arrays [accumulation A, rows B, ...]."""

    tokens_ABT: Int[Array, "A B T"]
    positions_ABT: Int[Array, "A B T"]
    hide_start_ABET: Int[Array, "A B E T"]
    hide_end_ABET: Int[Array, "A B E T"]
    targets: Targets


def state_sharding(model: TrainableModel, placement: Placement, state: TrainState) -> TrainState:
    """Where each array of the state lies: the optimizer's with the parameter whose name they bear."""

    def of(path, _):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return model.sharding(placement, names[-1]) if names else placement.whole

    return jax.tree_util.tree_map_with_path(of, state)


def make_state(model: TrainableModel, optimizer: optax.GradientTransformation, params: dict[str, Array]) -> TrainState:
    """A fresh state; works on abstract parameters under `jax.eval_shape` too."""
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def init_state(model: TrainableModel, optimizer: optax.GradientTransformation, placement: Placement) -> TrainState:
    """A fresh state, laid out over the mesh. The parameters are copied: the step donates its state."""
    make = partial(make_state, model, optimizer)
    shardings = state_sharding(model, placement, jax.eval_shape(make, model.params))
    params = {name: jax.device_put(jnp.asarray(x), model.sharding(placement, name)) for name, x in model.params.items()}
    return jax.jit(make, out_shardings=shardings)(params)


def make_step(
    model: TrainableModel,
    optimizer: optax.GradientTransformation,
    placement: Placement,
    *,
    loss_chunk: int,
    z_loss: float = 0.0,
) -> Callable[[TrainState, object, StepBatch], tuple[TrainState, dict[str, Array]]]:
    """-> step(state, frozen, batch) -> (state, metrics), jit-compiled with shardings.

    The loss is the weighted mean over all targets of the step, so micro-batches and devices change it by rounding
    only. A step whose loss or gradient is not finite counts, but leaves weights and optimizer as they were and says so
    in `metrics["finite"]`.
    """
    head = Head(model.tag_ids, model.train_base, loss_chunk, z_loss)

    def micro_loss(params, frozen, scale, batch: StepBatch):
        hidden_BTD, base_VD, tags_KD = model.forward(params, frozen, *batch[:-1])
        sums = cross_entropy_on_mesh(placement, head, hidden_BTD, base_VD, tags_KD, batch.targets)
        return sums.total * scale, sums

    def gradients(params, frozen, scale, batch: StepBatch):
        value = jax.value_and_grad(micro_loss, has_aux=True)

        def one(micro):
            (_, sums), grads = value(params, frozen, scale, micro)
            return sums, {name: placement.home(x, model.sharding(placement, name)) for name, x in grads.items()}

        if batch.tokens_ABT.shape[0] == 1:
            return one(jax.tree.map(lambda x: x[0], batch))
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zeros = zeros[0], {name: placement.home(x, model.sharding(placement, name)) for name, x in zeros[1].items()}
        return jax.lax.scan(lambda carry, micro: (jax.tree.map(jnp.add, carry, one(micro)), None), zeros, batch)[0]

    def step(state: TrainState, frozen, batch: StepBatch):
        weight = batch.targets.weight_BT.sum()
        sums, grads = gradients(state.params, frozen, 1.0 / jnp.maximum(weight, 1e-9), batch)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
        after, before = (optax.apply_updates(state.params, updates), opt_state), (state.params, state.opt_state)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), after, before)
        return TrainState(state.step + 1, *new), report(sums, weight) | {"gradient_norm": norm, "finite": finite}

    state = jax.eval_shape(partial(make_state, model, optimizer), model.params)
    at = state_sharding(model, placement, state)
    inputs = at, model.frozen_sharding(placement), step_batch_sharding(placement)
    return jax.jit(step, donate_argnums=0, in_shardings=inputs, out_shardings=(at, placement.whole))


def step_batch_sharding(placement: Placement) -> StepBatch:
    """Rows over the batch axes; all that is one number a token along the text too, the intervals whole."""
    text, row = batch_sharding(placement, "length"), batch_sharding(placement)
    return StepBatch(text, text, row, row, Targets(text, text, text, text))


def report(sums: LossSums, weight: Array) -> dict[str, Array]:
    """Means for the metrics from the sums of a step; a part without a target is nan."""
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
