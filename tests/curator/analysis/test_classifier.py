"""Logistic regression, and how it is judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.analysis.classifier import CrossValidation, Design, auc, fold_of, judge


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs(points):
    scores, labels = map(np.array, zip(*points, strict=True))
    above, below = scores[labels], scores[~labels]
    pairs = [(a > b) + 0.5 * (a == b) for a in above for b in below]
    if pairs:
        assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(auc(scores, labels))


def points(count, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)), rng.random(count) < 0.4, np.arange(count) % 5


@pytest.mark.parametrize("width", [3, 90])
def test_the_loss_is_least(width):
    """The gradient is zero where it ends, with more features than points too."""
    features, labels, _ = points(60, width)
    use = np.arange(60) < 40
    odds = Design.of(features * 7 + 3, use).fit(labels, [0.5, 0.05])
    standard = (features - features[use].mean(0)) / features[use].std(0)
    for strength, mine in zip((0.5, 0.05), odds, strict=True):
        error = (1 / (1 + np.exp(-mine)) - labels)[use] / use.sum()
        assert abs(error.sum()) < 1e-6
        # At the least loss the weights are the data's pull over the strength.
        weights = -standard[use].T @ error / strength
        np.testing.assert_allclose(standard @ weights, mine - (mine - standard @ weights).mean(), atol=1e-4)


def test_constant_features_are_passed_over():
    features, labels, _ = points(40, 2)
    use = np.arange(40) < 30
    with_constant = np.concatenate([features, np.full((40, 1), 5.0)], axis=1)
    plain, more = (Design.of(x, use).fit(labels, [0.1]) for x in (features, with_constant))
    np.testing.assert_allclose(plain, more)
    assert np.ptp(Design.of(with_constant[:, 2:], use).fit(labels, [0.1])) == 0


def test_what_can_be_told_is_told_and_what_cannot_is_not():
    features, labels, folds = points(300, 20)
    verdict = CrossValidation(features, folds).verdict(labels)
    assert (verdict.points, verdict.positives) == (300, labels.sum())
    assert verdict.majority == pytest.approx(1 - labels.mean(), abs=0.01)
    assert 0.4 < verdict.auc < 0.6
    assert verdict.accuracy < verdict.majority + 0.05
    features[:, 7] += 3 * labels
    verdict = CrossValidation(features, folds).verdict(labels)
    assert verdict.auc > 0.95
    assert min(verdict.accuracy, verdict.balanced) > 0.85


def test_held_out_points_are_not_learnt():
    """Each group has a label and a mark of its own: known groups are told perfectly, new ones not at all."""
    rng = np.random.default_rng(3)
    group = np.arange(200) // 4
    labels = (rng.random(50) < 0.5)[group]
    marks = np.eye(50)[group]
    assert CrossValidation(marks, np.arange(200) % 5).verdict(labels, [0.01]).auc > 0.95
    assert abs(CrossValidation(marks, group % 5).verdict(labels, [0.01]).auc - 0.5) < 0.05


def test_a_verdict_on_given_odds():
    odds = np.array([[-1, 2, 3, 0], [0, 0, 1, -1]], float)
    labels = np.array([False, True, False, True])
    verdict = judge(odds, labels, np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool))
    # The first fold is right twice, the second never.
    assert (verdict.accuracy, verdict.balanced, verdict.auc) == (0.5, 0.5, 0.5)


def test_folds_stay():
    assert [fold_of(name) for name in ("a", "b", "c")] == [fold_of(name) for name in ("a", "b", "c")]
    assert {fold_of(str(number)) for number in range(100)} == set(range(5))
