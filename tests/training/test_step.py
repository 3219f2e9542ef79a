"""One step: accumulation, devices, frozen weights, what is not finite."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tiny_training import RandomBatches, make_trainee

from mvjax.training import sharding
from mvjax.training.config import TrainConfig
from mvjax.training.optimizer import make_optimizer
from mvjax.training.run import place
from mvjax.training.step import init_state, make_step


def one_step(batch, accumulation=1, trainee=None, devices=1, steps=1, optimizer=None):
    trainee = trainee or make_trainee()
    mesh = sharding.make_mesh(devices)
    # Plain descent: Adam's first step is the sign of the gradient, which would hide or inflate differences.
    optimizer = optimizer or optax.sgd(1.0)
    step = make_step(trainee, optimizer, mesh, loss_chunk=7)
    state = init_state(trainee, optimizer, mesh)
    for _ in range(steps):
        state, metrics = step(state, trainee.frozen, place(batch, accumulation, mesh))
    return jax.device_get(state), jax.device_get(metrics)


def largest_difference(a, b):
    return max(np.abs(a[name] - b[name]).max() for name in a)


@pytest.mark.parametrize(("lora_rank", "accumulation"), [(4, 4), pytest.param(0, 2, marks=pytest.mark.slow)])
def test_accumulation_equals_the_big_batch(lora_rank, accumulation):
    trainee, batch = make_trainee(lora_rank), next(RandomBatches())
    whole, whole_metrics = one_step(batch, 1, trainee)
    moved = largest_difference(whole.params, jax.device_get(trainee.params))
    parts, metrics = one_step(batch, accumulation, trainee)
    assert largest_difference(parts.params, whole.params) < 1e-6
    for name in ("loss", "loss_path", "accuracy", "targets", "gradient_norm"):
        assert metrics[name] == pytest.approx(whole_metrics[name], rel=1e-5)
    assert moved > 1e-3


def test_gradient_equals_finite_differences_of_the_loss():
    trainee, batch = make_trainee(), next(RandomBatches())
    after, metrics = one_step(batch, 1, trainee)
    before = jax.device_get(trainee.params)
    rng = np.random.default_rng(0)
    direction = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in before.items()}
    slope = sum(float((direction[name] * (before[name] - after.params[name])).sum()) for name in before)

    def loss_at(size):
        params = {name: jax.numpy.asarray(before[name] + size * direction[name]) for name in before}
        return float(one_step(batch, 1, dataclasses.replace(trainee, params=params))[1]["loss"])

    # A step small enough for the third-order term (it falls with the square) and large enough for float32 losses.
    assert (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3 == pytest.approx(slope, rel=5e-3)
    assert metrics["finite"]


def test_frozen_weights_have_no_gradient_in_the_program():
    trainee, batch = make_trainee(), next(RandomBatches())
    mesh = sharding.make_mesh(1)
    optimizer = make_optimizer(TrainConfig(), lambda _: 1e-3, trainee.groups)
    step = make_step(trainee, optimizer, mesh, loss_chunk=7)
    state = init_state(trainee, optimizer, mesh)
    assert set(trainee.groups.values()) == {"tags", "lora"}
    assert trainee.groups["embed_tokens/tag_rows"] == "tags"
    shapes = {x.shape for x in jax.tree.leaves(step.eval_shape(state, trainee.frozen, place(batch, 1, mesh))[0])}
    assert (50, 16) not in shapes  # neither a gradient nor a moment of the embedding
    _, full = one_step(batch, trainee=make_trainee(0))
    assert full["finite"]


def test_scanned_layers_train_like_unrolled_ones():
    batch = next(RandomBatches())
    scanned = one_step(batch, trainee=make_trainee(scan_layers=True))[1]
    unrolled = one_step(batch, trainee=make_trainee(scan_layers=False))[1]
    assert scanned["targets"] == unrolled["targets"]
    assert np.isfinite(scanned["loss"])


def test_step_that_is_not_finite_changes_nothing():
    trainee, batch = make_trainee(), next(RandomBatches())
    broken = jax.tree.map(lambda x: x, trainee.params)
    name = next(name for name in broken if name.endswith("lora_b"))
    broken[name] = broken[name].at[0, 0].set(np.inf)
    trainee = dataclasses.replace(trainee, params=broken)
    optimizer = make_optimizer(TrainConfig(), lambda _: 1e-3, trainee.groups)
    state, metrics = one_step(batch, trainee=trainee, optimizer=optimizer)
    assert not metrics["finite"]
    assert state.step == 0
    for key, value in state.params.items():
        np.testing.assert_array_equal(value, broken[key])


def test_four_devices_equal_one(tmp_path):
    batch, root = next(RandomBatches(rows=8)), Path(__file__).parents[2]
    single, single_metrics = one_step(batch, 2)
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]; import jax, numpy as np\n"
        "from tiny_training import RandomBatches\nfrom test_step import one_step\n"
        "assert jax.device_count() == 4\n"
        "state, metrics = one_step(next(RandomBatches(rows=8)), 2, devices=4)\n"
        "np.savez(sys.argv[1], loss=metrics['loss'], targets=metrics['targets'], **state.params)\n"
    )
    flags = "--xla_force_host_platform_device_count=4 --xla_cpu_enable_concurrency_optimized_scheduler=false"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]),
    }
    out = tmp_path / "four.npz"
    here = Path(__file__).parent
    command = [sys.executable, "-c", script, str(out), str(here), str(here.parent / "support")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as four:
        assert four["targets"] == single_metrics["targets"]
        assert four["loss"] == pytest.approx(single_metrics["loss"], rel=1e-6)
        assert largest_difference(single.params, four) < 1e-5
