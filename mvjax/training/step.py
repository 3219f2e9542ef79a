"""One training step as a pure function, jit-compiled over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from mvjax.training import sharding
from mvjax.training.loss import PARTS, Head, LossSums, Targets, cross_entropy
from mvjax.training.model import Trainee


class TrainState(NamedTuple):
    """What a step changes, and all that a checkpoint must hold."""

    step: Int[Array, ""]
    """Steps done."""
    params: dict[str, Array]
    """Trained parameters, float32."""
    opt_state: optax.OptState
    """State of the optimizer."""


class StepBatch(NamedTuple):
    """A step's rows, split into micro-batches: arrays [accumulation A, rows B, ...]."""

    tokens_ABT: Int[Array, "A B T"]
    positions_ABT: Int[Array, "A B T"]
    hide_start_ABET: Int[Array, "A B E T"]
    hide_end_ABET: Int[Array, "A B E T"]
    targets: Targets


def init_state(trainee: Trainee, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A fresh state, laid out over the mesh. The parameters are copied: the step donates its state."""
    params = {name: jnp.array(x, jnp.float32, copy=True) for name, x in trainee.params.items()}
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    return jax.device_put(state, sharding.state_sharding(mesh, state), may_alias=False)


def make_step(
    trainee: Trainee, optimizer: optax.GradientTransformation, mesh: Mesh, *, loss_chunk: int
) -> Callable[[TrainState, object, StepBatch], tuple[TrainState, dict[str, Array]]]:
    """-> step(state, frozen, batch) -> (state, metrics).

    The loss is the weighted mean over all targets of the step, so micro-batches and devices change it by rounding
    only. Each device works on its own rows; gradients are summed over micro-batches first and over devices once. A
    step whose loss or gradient is not finite leaves the state as it was and says so in `metrics["finite"]`.
    """
    head = Head(trainee.tag_ids, trainee.train_base, loss_chunk)

    def micro_loss(params, frozen, scale, batch: StepBatch):
        hidden_BTD, base_VD, tags_KD = trainee.forward(params, frozen, *batch[:-1])
        sums = cross_entropy(head, hidden_BTD, base_VD, tags_KD, batch.targets)
        return sums.total * scale, sums

    def gradients(params, frozen, scale, batch: StepBatch):
        """(sums, gradients) of one device's rows, added up over the devices."""
        value = jax.value_and_grad(micro_loss, has_aux=True)

        def add(carry, micro):
            (_, sums), grads = value(params, frozen, scale, micro)
            return jax.tree.map(jnp.add, carry, (sums, grads)), None

        if batch.tokens_ABT.shape[0] == 1:
            (_, sums), grads = value(params, frozen, scale, jax.tree.map(lambda x: x[0], batch))
        else:
            micro = jax.tree.map(lambda x: x[0], batch)
            shapes = jax.eval_shape(lambda: (value(params, frozen, scale, micro)[0][1], params))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (sums, grads), _ = jax.lax.scan(add, zeros, batch)
        return jax.lax.psum((sums, grads), sharding.BATCH_AXES)

    rows, whole = PartitionSpec(None, sharding.BATCH_AXES), PartitionSpec()
    spread = jax.shard_map(gradients, mesh=mesh, in_specs=(whole, whole, whole, rows), out_specs=whole, check_vma=False)

    def step(state: TrainState, frozen, batch: StepBatch):
        weight = batch.targets.weight_BT.sum()
        sums, grads = spread(state.params, frozen, 1.0 / jnp.maximum(weight, 1e-9), batch)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return new, report(sums, weight) | {"gradient_norm": norm, "finite": finite}

    placed = sharding.replicated(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(None, placed, sharding.batch_sharding(mesh)))


def report(sums: LossSums, weight: Array) -> dict[str, Array]:
    """Means for the metrics from the sums of a step; a part without a target is nan."""
    targets = sums.counts_P.sum()
    parts = {f"loss_{name}": sums.parts_P[i] / sums.counts_P[i] for i, name in enumerate(PARTS) if name != "prompt"}
    return {
        "loss": sums.total / jnp.maximum(weight, 1e-9),
        **parts,
        "accuracy": sums.correct / jnp.maximum(targets, 1),
        "targets": targets,
    }
