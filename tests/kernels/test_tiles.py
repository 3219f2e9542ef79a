"""The tile lists against the oracle's pairs."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvjax_kernels import visible_tiles
from mvjax_kernels.tiles import run_lists, runs_per_line
from oracle import interval_mask, tile_any
from packed_trees import INT32_MAX, TreeShape, packed_batch

SHAPES = [(64, 16, 16, 5), (97, 32, 8, 6), (97, 16, 24, 2), (40, 7, 9, 4), (33, 64, 64, 1)]


@partial(jax.jit, static_argnums=(2, 3, 4))
def counted(hide_start_BES, hide_end_BES, length, block_q, block_k, q_offset_B=None):
    q_offset_BC = None if q_offset_B is None else q_offset_B[:, None]
    return visible_tiles(
        hide_start_BES, hide_end_BES, length, block_q=block_q, block_k=block_k, q_offset_BC=q_offset_BC
    )


@pytest.mark.parametrize(("length", "block_q", "block_k", "levels"), SHAPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(0, 4), paths=st.integers(1, 5), text=st.integers(1, 20))
def test_tiles_of_packed_trees_are_exactly_those_with_a_visible_pair(
    length, block_q, block_k, levels, seed, depth, paths, text
):
    shape = TreeShape(depth=depth, paths=paths, text=text, padding=0.3)
    start_BET, end_BET, visible_BTT = packed_batch(seed, 2, length, levels, shape)
    np.testing.assert_array_equal(interval_mask(start_BET, end_BET, length), visible_BTT)
    visited_BQC, full_BQC = counted(start_BET, end_BET, length, block_q, block_k)
    np.testing.assert_array_equal(visited_BQC, tile_any(visible_BTT, block_q, block_k))
    assert not (full_BQC & tile_any(~visible_BTT, block_q, block_k)).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_chunks_of_queries_see_the_tiles_of_their_rows(seed, data):
    start_BET, end_BET, visible_BTT = packed_batch(seed, 2, 80, 4)
    offset_B = np.array([data.draw(st.integers(0, 57)) for _ in range(2)], np.int32)
    visited_BQC, full_BQC = counted(start_BET, end_BET, 23, 8, 16, offset_B)
    chunk_BTS = np.stack([rows[o : o + 23] for rows, o in zip(visible_BTT, offset_B)])
    np.testing.assert_array_equal(visited_BQC, tile_any(chunk_BTS, 8, 16))
    assert not (full_BQC & tile_any(~chunk_BTS, 8, 16)).any()


@partial(jax.jit, static_argnums=(3, 4, 5))
def listed(hide_start_BES, hide_end_BES, q_offset_B, length, rows, block):
    return run_lists(hide_start_BES, hide_end_BES, q_offset_B[:, None], length, rows, block)


def visits(lists, levels: int, batch: int, lines: int, blocks: int):
    """How often each block of a line is visited with the mask and without: [B, X, Y]."""
    shape, stride = (batch, lines, blocks), runs_per_line(levels)
    masked_BXY, full_BXY = np.zeros(shape, int), np.zeros(shape, int)
    runs, ends = (np.asarray(x)[:, :-stride].reshape(batch, lines, stride) for x in lists)
    assert (runs[..., -1] // 2 >= ends[..., -1]).all()
    for b, x in np.ndindex(batch, lines):
        for run, end in zip(runs[b, x], ends[b, x]):
            (full_BXY if run % 2 else masked_BXY)[b, x, run // 2 : end] += 1
    return masked_BXY, full_BXY


@pytest.mark.parametrize(
    ("length", "block_q", "block_k", "levels"),
    [*(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[:2]), *SHAPES[2:]],
)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.integers(0, 4), paths=st.integers(1, 5), text=st.integers(1, 20))
def test_lists_visit_each_tile_with_a_visible_pair_once(length, block_q, block_k, levels, seed, depth, paths, text):
    shape = TreeShape(depth=depth, paths=paths, text=text, padding=0.3)
    start_BET, end_BET, visible_BTT = packed_batch(seed, 2, length, levels, shape)
    by_rows, by_keys = listed(start_BET, end_BET, np.zeros(2, np.int32), length, block_q, block_k)
    wanted_BQC = tile_any(visible_BTT, block_q, block_k)
    Q, C = wanted_BQC.shape[1:]
    masked_BQC, full_BQC = visits(by_rows, levels, 2, Q, C)
    np.testing.assert_array_equal(masked_BQC + full_BQC, wanted_BQC)
    assert not (full_BQC.astype(bool) & tile_any(~visible_BTT, block_q, block_k)).any()
    masked_BCQ, turned_BCQ = visits(by_keys, levels, 2, C, Q)
    np.testing.assert_array_equal(turned_BCQ.swapaxes(1, 2), full_BQC)
    np.testing.assert_array_equal(masked_BCQ.swapaxes(1, 2), masked_BQC)


@partial(jax.jit, static_argnums=(3, 4, 5))
def listed_in_chunks(hide_start_BES, hide_end_BES, q_offset_BC, length, rows, block):
    return run_lists(hide_start_BES, hide_end_BES, q_offset_BC, length, rows, block)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_lists_of_several_chunks_visit_the_tiles_of_their_rows(seed, data):
    """Three chunks of 24 queries a sequence, each from a row of its own, in no order and overlapping."""
    start_BET, end_BET, visible_BTT = packed_batch(seed, 2, 90, 4)
    offset_BC = np.array(data.draw(st.lists(st.integers(0, 66), min_size=6, max_size=6)), np.int32).reshape(2, 3)
    lists = listed_in_chunks(start_BET, end_BET, offset_BC, 72, 8, 16)
    rows_BTS = [[visible[o : o + 24] for o in first_C] for visible, first_C in zip(visible_BTT, offset_BC)]
    seen_BQC = tile_any(np.stack([np.concatenate(rows) for rows in rows_BTS]), 8, 16)
    for runs, wanted_BXY in zip(lists, (seen_BQC, seen_BQC.swapaxes(1, 2))):
        masked_BXY, full_BXY = visits(runs, 4, 2, *wanted_BXY.shape[1:])
        assert ((masked_BXY + full_BXY > 0) >= wanted_BXY).all()
        assert (masked_BXY + full_BXY <= 1).all()
    masked_BQC, full_BQC = visits(lists[0], 4, 2, 9, 6)
    np.testing.assert_array_equal(masked_BQC + full_BQC, seen_BQC)
    hidden_BQC = tile_any(~np.stack([np.concatenate(rows) for rows in rows_BTS]), 8, 16)
    assert not (full_BQC.astype(bool) & hidden_BQC).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lists_of_any_intervals_visit_no_tile_twice_and_miss_none(seed):
    rng = np.random.default_rng(seed)
    start_BES = rng.integers(-5, 400, (2, 2, 400)).astype(np.int32)
    end_BES = (start_BES + rng.integers(-4, 300, start_BES.shape)).astype(np.int32)
    start_BES[:, :, ::2], end_BES[:, :, ::2] = 0, rng.choice([0, INT32_MAX], (2, 2, 200))
    visible_BTS = interval_mask(start_BES, end_BES, 400)
    for lists, pairs_BXY in zip(listed(start_BES, end_BES, np.zeros(2, np.int32), 400, 8, 4), (visible_BTS, None)):
        pairs_BXY = visible_BTS.swapaxes(1, 2) if pairs_BXY is None else pairs_BXY
        sides = (8, 4) if pairs_BXY is visible_BTS else (4, 8)
        seen_BXY, hidden_BXY = tile_any(pairs_BXY, *sides), tile_any(~pairs_BXY, *sides)
        masked_BXY, full_BXY = visits(lists, 2, 2, *seen_BXY.shape[1:])
        assert (masked_BXY + full_BXY <= 1).all()
        assert (masked_BXY + full_BXY >= seen_BXY).all()
        assert not (full_BXY.astype(bool) & hidden_BXY).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_intervals_miss_no_pair(seed):
    rng = np.random.default_rng(seed)
    start_BES = rng.integers(-5, 90, (2, 3, 75)).astype(np.int32)
    end_BES = (start_BES + rng.integers(-4, 80, start_BES.shape)).astype(np.int32)
    end_BES[rng.random(end_BES.shape) < 0.1] = INT32_MAX
    offset_B = rng.integers(0, 40, 2).astype(np.int32)
    visible_BTS = interval_mask(start_BES, end_BES, 50, offset_B)
    visited_BQC, full_BQC = counted(start_BES, end_BES, 50, 16, 8, offset_B)
    assert not (tile_any(visible_BTS, 16, 8) & ~np.asarray(visited_BQC)).any()
    assert not (full_BQC & tile_any(~visible_BTS, 16, 8)).any()


def test_causal_tiles_below_the_diagonal_are_full():
    start_BES, end_BES = np.full((1, 1, 64), 64, np.int32), np.full((1, 1, 64), INT32_MAX, np.int32)
    visited_BQC, full_BQC = counted(start_BES, end_BES, 64, 16, 16)
    np.testing.assert_array_equal(visited_BQC[0], np.tril(np.ones((4, 4), bool)))
    np.testing.assert_array_equal(full_BQC[0], np.tril(np.ones((4, 4), bool), -1))


def test_full_tiles_of_a_wide_block_are_found():
    """Two long paths: the tiles between them are not visited, those from the question and to the end are full."""
    start_ES, end_ES = np.zeros((2, 128), np.int32), np.zeros((2, 128), np.int32)
    start_ES[0], end_ES[0] = 128, INT32_MAX
    start_ES[1, 32:64], end_ES[1, 32:64] = 64, 96
    start_ES[1, 64:96], end_ES[1, 64:96] = 96, 96
    visited_BQC, full_BQC = counted(start_ES[None], end_ES[None], 128, 32, 32)
    np.testing.assert_array_equal(visited_BQC[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(full_BQC[0], [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
