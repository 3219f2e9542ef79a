"""AdamW, its groups and its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import TAGS as TAG_IDS
from tiny_training import describe_tiny

from mvjax.training.config import OptimizerConfig
from mvjax.training.model import TAGS, TrainableModel, make_trainable
from mvjax.training.optimizer import make_optimizer, make_schedule

RATE = 0.01


def trainable(params, groups):
    return TrainableModel(params, None, groups, lambda *_: None, (), True, lambda _: None)


def updates_of(config, grads, params, groups, steps=1):
    optimizer = make_optimizer(config, lambda _: RATE, trainable(params, groups))
    state, update = jax.jit(optimizer.init)(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(grads, state, params)
    return updates


def test_update_is_adamw_by_hand():
    config = OptimizerConfig(clip=0.0, weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8)
    grad = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    weight = np.ones((3, 4), np.float32)
    update = updates_of(config, {"w": grad}, {"w": jnp.asarray(weight)}, {"w": "base"}, steps=2)["w"]
    mean, square = np.zeros_like(grad), np.zeros_like(grad)
    for step in (1, 2):
        mean, square = 0.9 * mean + 0.1 * grad, 0.95 * square + 0.05 * grad**2
        adam = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
    np.testing.assert_allclose(update, -RATE * (adam + 0.1 * weight), rtol=1e-5)


@pytest.mark.parametrize("multiplier", [1.0, 10.0, 100.0])
def test_tag_rows_learn_at_a_multiple_of_the_rate(multiplier):
    grads = {"tags": jnp.full((2, 3), 0.5), "lora": jnp.full((2, 3), 0.5)}
    params = {name: jnp.zeros((2, 3)) for name in grads}
    config = OptimizerConfig(tag_multiplier=multiplier)
    updates = updates_of(config, grads, params, {"tags": TAGS, "lora": "lora"})
    np.testing.assert_allclose(updates["tags"], multiplier * updates["lora"], rtol=1e-6)
    np.testing.assert_allclose(updates["lora"], -RATE, rtol=1e-4)


def test_only_matrices_that_are_no_tag_rows_are_decayed():
    params = {"tags": jnp.ones((2, 3)), "matrix": jnp.ones((2, 3)), "norm": jnp.ones(3)}
    grads = {name: jnp.zeros_like(x) for name, x in params.items()}
    groups = {"tags": TAGS, "matrix": "base", "norm": "base"}
    updates = updates_of(OptimizerConfig(weight_decay=0.1, tag_multiplier=10.0), grads, params, groups)
    np.testing.assert_allclose(updates["matrix"], -RATE * 0.1, rtol=1e-6)
    assert not np.any(updates["tags"])
    assert not np.any(updates["norm"])


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_decay_follows_the_role_of_an_array_not_its_rank(lora_rank):
    """Norms and biases of scanned layers are [layers, D]; a matrix has two axes beside the layers'."""
    decays = []
    for scan_layers in (True, False):
        model = make_trainable(describe_tiny(scan_layers, lora_rank=lora_rank, family="qwen2"), TAG_IDS)
        found = {name: [] for name in map(role, model.decayed)}
        for name, decayed in model.decayed.items():
            found[role(name)].append(decayed)
        assert all(len(set(values)) == 1 for values in found.values())
        decays.append({name: values[0] for name, values in found.items()})
    assert decays[0] == decays[1]
    plain = {name for name, decayed in decays[0].items() if not decayed}
    assert plain == {name for name in decays[0] if "norm" in name or "bias" in name or "tag_rows" in name}
    assert any("norm" in name for name in plain) == (lora_rank == 0)


def role(name):
    """A parameter's name without its layer's number."""
    return "/".join(part for part in name.split("/") if not part.isdigit())


@pytest.mark.parametrize("tied", [True, False])
def test_tag_rows_of_a_trained_matrix_learn_at_a_multiple_of_the_rate(tied):
    model = make_trainable(describe_tiny(True, lora_rank=0, tied=tied), TAG_IDS)
    assert set(model.tag_rows) == {"embed_tokens/weight"} | ({"lm_head/weight"} if not tied else set())
    rng = np.random.default_rng(0)
    params, grads = (
        {name: rng.normal(size=x.shape).astype(np.float32) for name, x in model.params.items()} for _ in range(2)
    )
    found = []
    for multiplier in (1.0, 10.0):
        config = OptimizerConfig(tag_multiplier=multiplier, weight_decay=0.1)
        optimizer = make_optimizer(config, lambda _: RATE, model)
        found.append(jax.jit(optimizer.update)(grads, jax.jit(optimizer.init)(params), params)[0])
    for name, plain in found[0].items():
        factor_V1 = np.ones((len(plain), *[1] * (plain.ndim - 1)), np.float32)
        if name in model.tag_rows:
            factor_V1[list(TAG_IDS)] = 10.0
        decay = -RATE * 0.1 * params[name] * model.decayed[name]
        np.testing.assert_allclose(found[1][name] - decay, factor_V1 * (plain - decay), rtol=2e-3, atol=1e-6)


def test_clipping_is_by_the_norm_of_all_gradients_together():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    config = OptimizerConfig(clip=1.0, epsilon=1.0, beta1=0.0, beta2=0.0)  # so that Adam shows the size: g / (|g| + 1)
    updates = updates_of(
        config, {"a": jnp.array([30.0, 0.0]), "b": jnp.array([0.0, 40.0])}, params, dict.fromkeys("ab", "base")
    )
    np.testing.assert_allclose(updates["a"], [-RATE * 0.6 / 1.6, 0], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], [0, -RATE * 0.8 / 1.8], rtol=1e-5)


def test_schedule_warms_up_linearly_and_ends_at_the_final_rate():
    schedule = make_schedule(OptimizerConfig(learning_rate=0.5, warmup=0.1, final_learning_rate=0.2), 100)
    rates = np.array([float(schedule(step)) for step in range(101)])
    np.testing.assert_allclose(np.diff(rates[:11]), rates[1] - rates[0], rtol=1e-5)
    assert rates[0] > 0
    assert rates.argmax() == 10
    assert rates[10] == 0.5
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[100] == pytest.approx(0.1)  # a share of the peak
    assert rates[55] == pytest.approx(0.3, abs=0.005)  # halfway along the cosine


def test_schedule_without_warm_up_starts_at_the_peak_and_a_run_of_one_step_works():
    assert float(make_schedule(OptimizerConfig(learning_rate=1.0, warmup=0.0), 100)(0)) == 1.0
    assert np.isfinite(float(make_schedule(OptimizerConfig(learning_rate=1.0), 1)(0)))
