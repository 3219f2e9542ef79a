"""The largest logits: in two stages as in one, bit for bit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.engine.k_largest import BLOCK, k_largest, k_largest_in_stages

K = 8
INF = np.inf


def bits(result):
    values, indices = result
    return np.asarray(values).view(np.int32), np.asarray(indices)


def rows_with_ties(count, width, rng):
    """Rows that are hard in one way or another, or several: few different numbers, few finite ones, zeros of both
    signs, none above zero, the largest in one block."""
    rows = rng.normal(size=(count, width)).astype(np.float32)
    for row in rows:
        levels = rng.integers(1, 6)
        if rng.random() < 0.8:  # Ties, within blocks and across them.
            row[:] = np.round(row * levels) / levels
        if rng.random() < 0.3:
            row -= 20
        if rng.random() < 0.3:
            row[rng.random(width) < rng.choice([0.5, 0.9, 0.99, 1.0])] = -INF
        if rng.random() < 0.3:
            row[rng.integers(0, width, rng.integers(1, 2 * K))] = INF
        if rng.random() < 0.3:
            row[(rng.random(width) < 0.5) & (row == 0)] = -0.0
        if rng.random() < 0.2:
            start = rng.integers(0, width - 2 * K)
            row[start : start + 2 * K] += 9
    return rows


@pytest.mark.parametrize("width", [BLOCK * 40, BLOCK * 40 - 1, BLOCK * K + 1])
def test_two_stages_give_what_one_gives(width):
    rows = rows_with_ties(400, width, np.random.default_rng(width))
    assert all(np.any(rows == special) for special in (INF, -INF, 0.0))
    assert np.any(np.signbit(rows) & (rows == 0))
    found, wanted = jax.jit(k_largest_in_stages, static_argnums=1)(rows, K), jax.lax.top_k(rows, K)
    jax.tree.map(np.testing.assert_array_equal, bits(found), bits(wanted))


@pytest.mark.parametrize("width", [K, BLOCK * K, BLOCK * K + 1])
def test_rows_of_any_width(width):
    rows = rows_with_ties(20, max(width, 3 * K), np.random.default_rng(width))[:, :width]
    found = jax.jit(k_largest, static_argnums=1)(rows, K)
    jax.tree.map(np.testing.assert_array_equal, bits(found), bits(jax.lax.top_k(rows, K)))


def test_rows_that_are_too_short_for_stages_are_refused():
    with pytest.raises(ValueError, match="no more than 8 blocks"):
        k_largest_in_stages(jnp.zeros((1, BLOCK * K)), K)


def test_the_program_of_a_gpu_has_two_stages():
    """And that of other platforms the one operation that they are good at."""
    row = jax.ShapeDtypeStruct((4, 151669), np.float32)

    def widths(platform):
        traced = jax.jit(k_largest, static_argnums=1).trace(row, 64)
        return re.findall(r"top_k.*: tensor<4x(\d+)xf32>", traced.lower(lowering_platforms=(platform,)).as_text())

    assert widths("cuda") == widths("rocm") == ["2370", "4096"]
    assert widths("cpu") == widths("tpu") == ["151669"]
