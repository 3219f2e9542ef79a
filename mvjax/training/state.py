"""The state of a run before its first step, and what it looks like before there is one."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mvjax.models.placement import Placement
from mvjax.training.base_model import Initial
from mvjax.training.model import TrainableModel, TrainState


def make_state(optimizer: optax.GradientTransformation, params: dict[str, Array]) -> TrainState:
    """The state before the first step; works on abstract parameters under `jax.eval_shape` too."""
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def abstract_state(model: TrainableModel, optimizer: optax.GradientTransformation, placement: Placement) -> TrainState:
    """Shapes, types and places of its arrays."""
    state = jax.eval_shape(partial(make_state, optimizer), model.params)

    def placed(x: jax.ShapeDtypeStruct, home) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=home)

    return jax.tree.map(placed, state, model.state_sharding(placement, state))


def init_state(
    model: TrainableModel,
    optimizer: optax.GradientTransformation,
    placement: Placement,
    initial: Initial | None = None,
) -> TrainState:
    """The state before the first step, laid out over the mesh.

    initial: makes its parameters, which become part of the state: the step will write over them. None: copies of the
    model's own, which must be arrays then.
    """
    like = abstract_state(model, optimizer, placement)
    # One at a time: the new ones go to where they belong, and are in their place already if they come from files.
    params = {name: jnp.array(x) for name, x in model.params.items()} if initial is None else initial()
    params = {name: jax.device_put(params.pop(name), like.params[name].sharding) for name in like.params}
    step, _, opt_state = like
    home = jax.tree.map(lambda x: x.sharding, (step, opt_state))
    begin = jax.jit(lambda params: (jnp.int32(0), optimizer.init(params)), out_shardings=home)
    step, opt_state = begin(params)
    return TrainState(step, params, opt_state)
