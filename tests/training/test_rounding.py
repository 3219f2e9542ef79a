"""Updates of parameters of 16 bits count however small they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvjax.training.rounding import apply_updates, rounded

SIZE = 1 << 15
DIGIT = 2.0**-7
"""Distance of bfloat16's neighbours of 1."""


@pytest.mark.parametrize(("number", "share"), [(1 + 0.25 * DIGIT, 0.25), (-1 - 0.75 * DIGIT, 0.75), (1 + DIGIT, 1.0)])
def test_numbers_go_to_their_neighbours_as_often_as_they_are_near(number, share):
    chance = jax.random.bits(jax.random.key(0), (SIZE,))
    found = np.asarray(rounded(jnp.full(SIZE, number, jnp.float32), chance), np.float64)
    below, above = np.sign(number), np.sign(number) * (1 + DIGIT)
    assert set(found) <= {below, above}
    assert np.mean(found == above) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / SIZE))


def test_what_is_not_finite_stays_so():
    found = rounded(jnp.array([np.inf, -np.inf, np.nan, 0.0], jnp.float32), jnp.full(4, 0xFFFF, jnp.uint32))
    np.testing.assert_array_equal(np.asarray(found, np.float32), [np.inf, -np.inf, np.nan, 0])


def test_small_updates_add_up_where_the_nearest_would_stand_still():
    rng = np.random.default_rng(0)
    start = {name: jnp.asarray(rng.normal(size=SIZE), jnp.bfloat16) for name in ("a", "b")}
    update = {name: jnp.asarray(rng.choice([-1e-5, 1e-5], SIZE), jnp.float32) for name in start}
    stochastic, nearest = start, start
    step = jax.jit(apply_updates)
    for number in range(40):
        stochastic, nearest = step(stochastic, update, number), optax.apply_updates(nearest, update)

    def progress(params) -> float:
        """Of the way that exact weights would have gone."""
        moved = [np.asarray(params[name], np.float64) - np.asarray(start[name], np.float64) for name in start]
        wanted = [40 * np.asarray(update[name], np.float64) for name in start]
        return np.vdot(moved, wanted) / np.vdot(wanted, wanted)

    assert progress(nearest) < 0.1
    assert progress(stochastic) == pytest.approx(1, abs=0.1)
    assert all(x.dtype == jnp.bfloat16 for x in stochastic.values())


def test_chances_differ_by_step_parameter_and_element_and_by_nothing_else():
    same = {name: jnp.ones((64, 8), jnp.bfloat16) for name in ("a", "b")}
    half = {name: jnp.full((64, 8), DIGIT / 2) for name in same}
    first, again, later = (apply_updates(same, half, step) for step in (3, jnp.int32(3), 4))
    for name in same:
        np.testing.assert_array_equal(np.asarray(first[name], np.float32), np.asarray(again[name], np.float32))
        up = np.asarray(first[name] > 1)
        assert 0.4 < up.mean() < 0.6
        assert not (up.all(0) | ~up.any(0)).any()
        assert (up != np.asarray(later[name] > 1)).mean() > 0.4
    assert (np.asarray(first["a"] > 1) != np.asarray(first["b"] > 1)).mean() > 0.4


def test_parameters_of_32_bits_are_added_to_as_ever():
    params, update = {"a": jnp.full(3, 1 / 3)}, {"a": jnp.full(3, 1e-9)}
    np.testing.assert_array_equal(apply_updates(params, update, 0)["a"], optax.apply_updates(params, update)["a"])
