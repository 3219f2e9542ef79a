"""Sampling against a naive NumPy version: kept sets, distributions, and that a row's draw depends on that row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.engine import SamplingParams, sampling
from mvjax.engine.sampling import on_device

ROWS = 4096
sample = jax.jit(sampling.sample)


def naive_probabilities(logits_V, temperature, top_k, top_p, min_p=0.0):
    """Probabilities of the kept tokens, in float64."""
    scaled_V = np.asarray(logits_V, np.float64) / temperature
    if 0 < top_k < len(scaled_V):
        scaled_V = np.where(scaled_V >= np.sort(scaled_V)[-top_k], scaled_V, -np.inf)
    weight_V = np.exp(scaled_V - scaled_V.max())
    weight_V /= weight_V.sum()
    if top_p < 1:
        above_V = np.array([weight_V[weight_V > weight].sum() for weight in weight_V])
        weight_V = np.where(above_V < top_p, weight_V, 0)
    weight_V = np.where(weight_V >= min_p * weight_V.max(), weight_V, 0)
    return weight_V / weight_V.sum()


def draws(logits_V, temperature, top_k, top_p, min_p=0.0, seed=0):
    """Tokens drawn with ROWS different keys."""
    rng = np.random.default_rng(seed)
    tokens, _ = sample(
        jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (ROWS, len(logits_V))),
        jnp.asarray(rng.integers(0, 2**32, (ROWS, 2), np.uint32)),
        jnp.arange(ROWS, dtype=jnp.int32) % 7,
        jax.tree.map(
            lambda value: jnp.full(ROWS, value),
            on_device(SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)),
        ),
    )
    return np.asarray(tokens)


@pytest.mark.parametrize(
    ("weights", "top_p", "kept"),
    [
        ([0.5, 1, *[0.25] * 2, *[0] * 19], 0.5, {1}),
        ([0.5, 1, *[0.25] * 2, *[0] * 19], 0.75, {0, 1}),
        ([0.5, 1, *[0.25] * 2, *[0] * 296], 0.75, {0, 1}),
        ([*[0.5] * 200, *[1] * 100], 0.5, set(range(200, 300))),  # More than the candidates.
    ],
)
def test_nothing_is_kept_beyond_a_mass_of_exactly_p(weights, top_p, kept):
    with np.errstate(divide="ignore"):
        assert set(draws(np.log(weights), 1.0, 0, top_p)) == kept


@pytest.mark.parametrize("vocab_size", [23, 300])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 0.9, 0.0),
        (3.0, 0, 0.95, 0.0),
        (1.0, 5, 1.0, 0.0),
        (1.3, 50, 0.95, 0.0),
        (2.0, 100, 1.0, 0.0),
        (5.0, 150, 0.8, 0.0),
        (1.0, 1, 0.5, 0.0),
        (1.0, 299, 0.99, 0.0),
        # Min-p: among the candidates, beyond them, alone, and with the others on either side of it.
        (1.0, 0, 1.0, 0.3),
        (8.0, 0, 1.0, 0.4),
        (1.0, 0, 1.0, 1.0),
        (3.0, 0, 0.9, 0.2),
        (3.0, 0, 0.3, 0.05),
        (5.0, 0, 0.9, 0.3),
        (2.0, 100, 1.0, 0.3),
        (5.0, 150, 0.8, 0.3),
        (5.0, 20, 1.0, 0.9),
        (2.0, 7, 1.0, 0.01),
    ],
)
def test_draws_follow_the_naive_distribution(vocab_size, temperature, top_k, top_p, min_p):
    logits_V = np.random.default_rng(vocab_size).normal(size=vocab_size).astype(np.float32) * 2
    expected_V = naive_probabilities(logits_V, temperature, top_k, top_p, min_p)
    counts_V = np.bincount(draws(logits_V, temperature, top_k, top_p, min_p), minlength=vocab_size)
    assert not counts_V[expected_V == 0].any()
    # Rare tokens together in one class, so that chi-square holds.
    common_V = expected_V * ROWS >= 5
    rest = [(counts_V[~common_V].sum(), expected_V[~common_V].sum())]
    pairs = [*zip(counts_V[common_V], expected_V[common_V]), *[pair for pair in rest if pair[1] * ROWS >= 5]]
    chi_square = sum((count - p * ROWS) ** 2 / (p * ROWS) for count, p in pairs)
    freedom = len(pairs) - 1
    assert chi_square <= freedom + 4 * np.sqrt(2 * max(freedom, 1))


def test_tokens_that_tie_with_the_last_one_are_kept():
    logits_V = np.zeros(300, np.float32)
    logits_V[:3] = 1.0
    assert set(draws(logits_V, 1.0, 2, 1.0)) == {0, 1, 2}
    assert len(set(draws(logits_V, 1.0, 10, 1.0))) == 300
    # Mass 0.02 is reached within the three; just beyond them, all of the others tie.
    assert set(draws(logits_V, 1.0, 0, 0.02)) == {0, 1, 2}
    assert len(set(draws(logits_V, 1.0, 0, 0.5))) == 300


def test_min_p_keeps_what_is_exactly_at_its_bound():
    """Probabilities 8 : 4 : 2 : 1 : ..., and a bound of a quarter; the temperature comes first."""
    logits_V = np.log(2.0) * np.arange(0, -300, -1).astype(np.float32)
    assert set(draws(logits_V, 1.0, 0, 1.0, 0.24999)) == {0, 1, 2}
    assert set(draws(logits_V, 1.0, 0, 1.0, 0.25001)) == {0, 1}
    assert set(draws(logits_V, 2.0, 0, 1.0, 0.24999)) == {0, 1, 2, 3, 4}
    ties_V = np.zeros(300, np.float32)  # All are as probable as the first: more than the candidates.
    assert len(set(draws(ties_V, 1.0, 0, 1.0, 1.0))) == 300


def mixed_rows(vocab_size=2000):
    """Rows that take every way through the sampler."""
    rng = np.random.default_rng(5)
    settings = [
        (temperature, top_k, top_p, min_p)
        for temperature in (0.0, 0.6, 1.0, 4.0)
        for top_k in (0, 1, 40, 500)
        for top_p in (0.3, 0.95, 1.0)
        for min_p in (0.0, 0.2)
    ]
    count = len(settings)
    temperature_W, top_k_W, top_p_W, min_p_W = np.array(settings).T
    return (
        rng.normal(size=(count, vocab_size)).astype(np.float32) * rng.uniform(0.5, 4, (count, 1)).astype(np.float32),
        rng.integers(0, 2**32, (count, 2), np.uint32),
        rng.integers(0, 1000, count).astype(np.int32),
        SamplingParams(
            temperature=temperature_W.astype(np.float32),
            top_k=top_k_W.astype(np.int32),
            top_p=top_p_W.astype(np.float32),
            min_p=min_p_W.astype(np.float32),
        ),
    )


def cut(rows, index):
    """Some of the rows."""
    return jax.tree.map(lambda field: field[index], rows)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    rows = mixed_rows()
    together_W, _ = sample(*rows)
    order_W = np.random.default_rng(1).permutation(len(rows[0]))
    shuffled_W, _ = sample(*cut(rows, order_W))
    np.testing.assert_array_equal(together_W[order_W], shuffled_W)
    for width in (1, 8):
        parts = [sample(*cut(rows, slice(at, at + width)))[0] for at in range(0, len(rows[0]), width)]
        np.testing.assert_array_equal(together_W, np.concatenate(parts))


def test_draws_stay_in_the_kept_set_whatever_the_setting():
    rows = mixed_rows()
    tokens_W, first_W = sample(*rows)
    np.testing.assert_array_equal(first_W, rows[0].argmax(axis=1))
    for token, logits_V, temperature, top_k, top_p in zip(
        np.asarray(tokens_W), rows[0], rows[3].temperature, rows[3].top_k, rows[3].top_p
    ):
        if temperature == 0:
            assert token == logits_V.argmax()
        else:
            assert naive_probabilities(logits_V, temperature, top_k, top_p)[token] > 0


def few_rows(logits_WV, temperature_W):
    """Tokens and most probable tokens of a few rows, padded to one shape for all tests."""
    rows, vocab_size = logits_WV.shape
    padded_WV = np.full((8, 2000), -np.inf, np.float32)
    padded_WV[rows:, 0] = 0
    padded_WV[:rows, :vocab_size] = logits_WV
    temperature_W = np.pad(temperature_W, (0, 8 - rows)).astype(np.float32)
    zero_W = np.zeros(8, np.int32)
    off_W = np.zeros(8, np.float32)
    params = SamplingParams(temperature=temperature_W, top_k=zero_W, top_p=off_W + 1, min_p=off_W)
    tokens = sample(padded_WV, np.ones((8, 2), np.uint32), zero_W, params)
    return [np.asarray(token_W)[:rows] for token_W in tokens]


def test_greedy_takes_the_lowest_id_on_ties():
    logits_WV = np.zeros((2, 100), np.float32)
    logits_WV[0, [41, 7, 99]] = 2.5
    for other in (0.0, 1.0):  # With a row beside it that samples, the candidates decide.
        tokens_W, first_W = few_rows(logits_WV, np.array([0.0, other]))
        assert (tokens_W[0], first_W[0]) == (7, 7)


def test_uniforms_are_those_of_the_key_and_index():
    root = jax.random.key(11, impl="threefry2x32")
    expected = [jax.random.uniform(jax.random.fold_in(jax.random.fold_in(root, 0), index)) for index in (0, 5, 1000)]
    key_W2 = jnp.broadcast_to(jax.random.key_data(root), (3, 2))
    np.testing.assert_array_equal(sampling.uniforms(key_W2, jnp.array([0, 5, 1000])), jnp.stack(expected))


def test_every_seed_of_64_bits_has_a_key_of_its_own():
    for seed in (0, 5, 2**31, np.int64(7), 2**32 - 1):
        expected = jax.random.key_data(jax.random.key(np.uint32(seed), impl="threefry2x32"))
        np.testing.assert_array_equal(sampling.key_of(seed), expected)
    seeds = [0, 5, -5, -1, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, -(2**63), -(2**32)]
    assert len({tuple(sampling.key_of(seed).tolist()) for seed in seeds}) == len(seeds)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("logits", "barred", "finite"),
    [
        ([1, 2, 3, 4], [0, 0, 0, 0], True),
        ([NAN, 0, 1, 2], [0, 0, 0, 0], False),
        ([NAN, INF, 1, 2], [1, 1, 0, 0], True),  # What stands at barred tokens does not matter.
        ([0, 0, INF, 0], [1, 0, 0, 0], False),
        ([-INF, -INF, 2, -INF], [0, 0, 0, 0], True),  # A model may mask tokens of its own.
        ([-INF, -INF, 2, -INF], [0, 0, 1, 0], False),  # But then one must be left.
        ([NAN] * 4, [0, 0, 0, 0], False),
        ([-INF] * 4, [0, 0, 0, 0], False),
        ([3e38, -3e38, 0, 0], [0, 0, 0, 0], True),
    ],
)
def test_rows_that_a_token_can_be_drawn_from(logits, barred, finite):
    logits_WV, barred_WV = np.array([logits, [0, 1, 2, 3]], np.float32), np.array([barred, [0] * 4], bool)
    open_WV, finite_W = sampling.bar(jnp.asarray(logits_WV), jnp.asarray(barred_WV))
    assert finite_W.tolist() == [finite, True]
    for temperature in (0.0, 1.0):
        tokens_W, _ = few_rows(np.asarray(open_WV), np.full(2, temperature))
        if finite:
            assert not barred[tokens_W[0]]
            assert np.isfinite(logits[tokens_W[0]])
        elif temperature == 0:
            assert tokens_W[1] == 3  # The row beside it does not notice.


@pytest.mark.parametrize("bad", [NAN, INF])
def test_one_bad_logit_is_found_wherever_it_stands(bad):
    logits_WV = np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)
    none_WV = np.zeros(logits_WV.shape, bool)
    judge = jax.jit(sampling.bar)
    assert np.asarray(judge(logits_WV, none_WV)[1]).all()
    np.fill_diagonal(logits_WV, bad)
    assert not np.asarray(judge(logits_WV, none_WV)[1]).any()
    assert np.asarray(judge(logits_WV, np.eye(300, dtype=bool))[1]).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks into the program that the CPU compiler makes")
def test_the_vocabulary_is_not_sorted():
    params = jax.tree.map(lambda value: np.full(2, value), on_device(SamplingParams()))
    shapes = [np.zeros((2, 5000), np.float32), np.zeros((2, 2), np.uint32), np.zeros(2, np.int32), params]
    program = sample.lower(*shapes).compile().as_text()
    assert " sort(" not in program
    assert "TopK" in program
