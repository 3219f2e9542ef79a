"""One step: accumulation, gradients, frozen weights, what is not finite. Meshes have a file of their own."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import RandomBatches, make_model, make_simple_model

from mvjax.training.batch import shard_batch
from mvjax.training.config import LossConfig, MeshConfig, OptimizerConfig
from mvjax.training.mesh import make_placement
from mvjax.training.optimizer import make_optimizer
from mvjax.training.state import init_state
from mvjax.training.step import make_update


@functools.cache
def stepper(lora_rank):
    """A model, and its step with plain descent: Adam's first step is the sign of the gradient, which would hide or
    inflate differences. The momentum shows in the optimizer's state only."""
    model, placement = make_model(lora_rank), make_placement(MeshConfig())
    optimizer = optax.sgd(1.0, momentum=0.9)
    step = make_update(model, optimizer, placement, LossConfig(chunk=7))
    return (
        model,
        step,
        lambda: init_state(model, optimizer, placement),
        functools.partial(shard_batch, placement=placement),
    )


def one_step(batch, accumulation=1, lora_rank=4, params=None):
    """State before and after, metrics."""
    model, step, init, put = stepper(lora_rank)
    state = init()
    if params is not None:
        state = state._replace(params={name: jax.numpy.asarray(x) for name, x in params.items()})
    before = jax.device_get(state)
    state, metrics = step(state, model.frozen, put(batch, accumulation))
    return before, jax.device_get(state), jax.device_get(metrics)


def largest_difference(a, b):
    return max(np.abs(a[name] - b[name]).max() for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(("lora_rank", "accumulation"), [(4, 4), (0, 2)])
def test_accumulation_equals_the_big_batch(lora_rank, accumulation):
    """So does a mesh's step in two parts, in the fast suite (`test_meshes`)."""
    batch = next(RandomBatches())
    before, whole, whole_metrics = one_step(batch, 1, lora_rank)
    _, parts, metrics = one_step(batch, accumulation, lora_rank)
    assert largest_difference(parts.params, whole.params) < 1e-6
    for name in ("loss", "loss_path", "accuracy", "accuracy_tag", "targets", "gradient_norm"):
        assert metrics[name] == pytest.approx(whole_metrics[name], rel=1e-5)
    assert largest_difference(whole.params, before.params) > 1e-3


@pytest.mark.slow
def test_gradient_equals_finite_differences_of_the_loss():
    batch = next(RandomBatches())
    before, after, metrics = one_step(batch)
    rng = np.random.default_rng(0)
    direction = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in before.params.items()}
    slope = sum(float((direction[name] * (x - after.params[name])).sum()) for name, x in before.params.items())

    def loss_at(size):
        params = {name: x + np.float32(size) * direction[name] for name, x in before.params.items()}
        return float(one_step(batch, params=params)[-1]["loss"])

    # A step small enough for the third-order term (it falls with the square) and large enough for float32 losses.
    assert (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3 == pytest.approx(slope, rel=5e-3)
    assert metrics["finite"]


def test_frozen_weights_have_no_gradient_in_the_program():
    def shapes(lora_rank):
        model, placement = make_model(lora_rank), make_placement(MeshConfig())
        optimizer = make_optimizer(OptimizerConfig(), lambda _: 1e-3, model)
        step, state = (
            make_update(model, optimizer, placement, LossConfig(chunk=7)),
            init_state(model, optimizer, placement),
        )
        batch = shard_batch(next(RandomBatches()), 1, placement)
        return model.groups, {x.shape for x in jax.tree.leaves(step.eval_shape(state, model.frozen, batch)[0])}

    groups, kept = shapes(4)
    assert set(groups.values()) == {"tags", "lora"}
    assert groups["embed_tokens/tag_rows"] == "tags"
    assert (50, 16) not in kept  # Neither a gradient nor a moment of the embedding.
    assert (50, 16) in shapes(0)[1]


def test_step_that_is_not_finite_counts_and_changes_nothing():
    model = stepper(4)[0]
    broken = jax.device_get(model.params)
    name = next(name for name in broken if name.endswith("lora_b"))
    broken[name] = broken[name].copy()
    broken[name][0, 0] = np.inf
    before, state, metrics = one_step(next(RandomBatches()), params=broken)
    assert not metrics["finite"]
    assert state.step == 1
    jax.tree.map(np.testing.assert_array_equal, state[1:], before[1:])


def test_finite_loss_with_a_gradient_that_is_not_finite_changes_nothing():
    """The square root of zero: its value is finite, its slope is not."""
    model = make_simple_model()
    params = model.params | {"matrix": 0 * model.params["matrix"]}

    def forward(params, frozen, tokens_BT, *_):
        return frozen[tokens_BT] @ jnp.sqrt(params["matrix"]), frozen, params["tag_rows"]

    model, placement = replace(model, params=params, forward=forward), make_placement(MeshConfig())
    optimizer = make_optimizer(OptimizerConfig(), lambda _: 1e-3, model)
    state = init_state(model, optimizer, placement)
    before = jax.device_get(state)
    update = make_update(model, optimizer, placement, LossConfig(chunk=7))
    state, metrics = update(state, model.frozen, shard_batch(next(RandomBatches()), 1, placement))
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["gradient_norm"])
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state)[1:], before[1:])
