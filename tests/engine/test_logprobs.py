"""What is kept of log-probabilities, as pure functions: with all tokens as alternatives they sum to 1."""

import functools

import jax
import numpy as np
import pytest

from mvjax.engine import logprobs


@functools.cache
def pack(alternatives):
    """Compiled once."""
    return jax.jit(functools.partial(logprobs.packed, alternatives=alternatives))


def kept(logits_WV, open_WV, token_W, alternatives):
    """Packed by the device and read by the host."""
    columns_WC = np.asarray(pack(alternatives)(logits_WV, open_WV, token_W))
    assert columns_WC.shape[1] == logprobs.columns(alternatives)
    return logprobs.unpacked(columns_WC, np.ones(len(token_W), bool))


def rows(vocab_size=37, count=5):
    rng = np.random.default_rng(3)
    logits_WV = rng.normal(size=(count, vocab_size)).astype(np.float32) * 4
    barred_WV = rng.random((count, vocab_size)) < 0.3
    barred_WV[:, 7] = False
    return logits_WV, np.where(barred_WV, np.float32("-inf"), logits_WV), np.full(count, 7, np.int32)


def test_all_alternatives_sum_to_one_and_barred_ones_are_minus_infinity():
    logits_WV, open_WV, token_W = rows()
    found = kept(logits_WV, open_WV, token_W, logits_WV.shape[1])
    for log_WK in (found.top, found.top_unbarred):
        np.testing.assert_allclose(np.exp(log_WK.astype(np.float64)).sum(axis=1), 1, atol=1e-6)
    by_id_WV = np.argsort(found.top_id, axis=1)
    top_WV, unbarred_WV = (np.take_along_axis(log_WK, by_id_WV, 1) for log_WK in (found.top, found.top_unbarred))
    np.testing.assert_array_equal(np.isneginf(top_WV), np.isneginf(open_WV))
    assert np.isfinite(unbarred_WV).all()
    np.testing.assert_array_equal(found.token, top_WV[:, 7])
    np.testing.assert_array_equal(found.token_unbarred, unbarred_WV[:, 7])
    assert (np.diff(found.top_unbarred, axis=1) <= 0).all()


def test_a_row_does_not_depend_on_the_rows_beside_it():
    together = kept(*rows(), 3)
    alone = kept(*[array[2:3] for array in rows()], 3)
    for one, other in zip(vars(alone).values(), vars(together.take(slice(2, 3))).values()):
        np.testing.assert_array_equal(one, other)


def test_no_alternatives_and_tokens_that_were_not_sampled():
    found = kept(*rows(), 0)
    np.testing.assert_array_equal(found.token, kept(*rows(), 3).token)
    assert found.top_id.shape == found.top.shape == found.top_unbarred.shape == (5, 0)
    columns_WC = np.zeros((2, logprobs.columns(2)), np.int32)
    found = logprobs.unpacked(columns_WC, np.array([True, False]))
    np.testing.assert_array_equal(found.token, [0, np.nan])
    np.testing.assert_array_equal(found.top_unbarred, [[0, 0], [np.nan, np.nan]])
    assert found.top_id.tolist() == [[0, 0], [-1, -1]]


@pytest.mark.parametrize(("alternatives", "count"), [(None, 0), (0, 2), (1, 5), (20, 62)])
def test_fields_of_a_record(alternatives, count):
    assert logprobs.columns(alternatives) == count
