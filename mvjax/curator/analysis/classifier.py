"""A small classifier that is judged on what it has not seen: logistic regression, cross-validated by group."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

STRENGTHS = (10.0, 1.0, 0.1, 0.01)
"""L2 penalties to choose from, for standardised features."""
FOLDS = 5
STEPS = 50
"""Most steps of Newton's method; it needs a handful."""


@dataclass(frozen=True)
class Verdict:
    """How well held-out points are distinguished."""

    points: int
    positives: int
    accuracy: float
    """Share of points that are classified right."""
    majority: float
    """The same of always saying what is more frequent in training: the accuracy's chance."""
    balanced: float
    """Mean of the two classes' shares, threshold at the training share; chance is 0.5."""
    auc: float
    """Probability that a positive scores above a negative of its fold; chance is 0.5."""

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def auc(scores_N: Sequence[float] | np.ndarray, positive_N: Sequence[bool] | np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half."""
    higher, pairs = _concordant(np.asarray(scores_N, float), np.asarray(positive_N, bool))
    return higher / pairs if pairs else float("nan")


def _concordant(scores_N: np.ndarray, positive_N: np.ndarray) -> tuple[float, int]:
    """Pairs of a positive and a negative in which the positive is higher, and all pairs."""
    above, below = scores_N[positive_N], np.sort(scores_N[~positive_N])
    left, right = np.searchsorted(below, above, side="left"), np.searchsorted(below, above, side="right")
    return float((left + right).sum() / 2), len(above) * len(below)


def fold_of(group: str, folds: int = FOLDS) -> int:
    """The fold of a group: by a checksum of its name, so that it stays where it is when others come or go."""
    return zlib.crc32(group.encode()) % folds


class CrossValidation:
    """Points in folds, made ready once for any number of labellings.

    A fold is held out in turn, and a logistic regression is trained on the others; its L2 penalty is chosen within
    them: by the log loss on the fold that follows, of models trained without that one.
    """

    def __init__(self, features_ND: Float[np.ndarray, "N D"], fold_N: Int[np.ndarray, "N"]):
        """fold_N: number of each point's fold; points that belong together must share it. Three folds at least."""
        self.held_FN = fold_N[None] == np.unique(fold_N)[:, None]
        self.choose_FN = np.roll(self.held_FN, -1, axis=0)
        self.trials = [Design.of(features_ND, ~(held | choose)) for held, choose in zip(self.held_FN, self.choose_FN)]
        self.designs = [Design.of(features_ND, ~held) for held in self.held_FN]

    def verdict(self, positive_N: Bool[np.ndarray, "N"], strengths: Sequence[float] = STRENGTHS) -> Verdict:
        """How well these labels are predicted."""
        odds = []
        for design, trial, choose_N in zip(self.designs, self.trials, self.choose_FN, strict=True):
            trial_KN = trial.fit(positive_N, strengths)[:, choose_N]
            loss_K = (np.logaddexp(0, trial_KN) - positive_N[choose_N] * trial_KN).sum(1)
            odds.append(design.fit(positive_N, [strengths[int(loss_K.argmin())]])[0])
        return judge(np.stack(odds), positive_N, self.held_FN)


def judge(odds_FN: np.ndarray, positive_N: np.ndarray, outer_FN: np.ndarray) -> Verdict:
    """The verdict on log-odds that each fold's model gives; `outer_FN` says which points it has not seen."""
    right = usual = 0
    hits, sizes = np.zeros(2), np.zeros(2)
    higher, pairs = 0.0, 0
    for odds_N, held_N in zip(odds_FN, outer_FN, strict=True):
        share = positive_N[~held_N].mean()
        truth, odds = positive_N[held_N], odds_N[held_N]
        right += int(((odds > 0) == truth).sum())
        usual += int((truth == (share > 0.5)).sum())
        likely = odds > np.log(share / (1 - share)) if 0 < share < 1 else odds > 0
        for label in (0, 1):
            hits[label] += (likely[truth == label] == label).sum()
            sizes[label] += (truth == label).sum()
        more, all_ = _concordant(odds, truth)
        higher, pairs = higher + more, pairs + all_
    count = int(outer_FN.sum())
    return Verdict(
        points=count,
        positives=int(positive_N.sum()),
        accuracy=right / count,
        majority=usual / count,
        balanced=float((hits / sizes).mean()) if sizes.all() else float("nan"),
        auc=higher / pairs if pairs else float("nan"),
    )


@dataclass(frozen=True, eq=False)
class Design:
    """Standardised features of all points, and which of them are for training."""

    rows: Float[np.ndarray, "N R"]
    """Features by the mean and scale of the training points, and a last column of ones."""
    use: Bool[np.ndarray, "N"]
    """The training points."""

    @classmethod
    def of(cls, features_ND: np.ndarray, use_N: np.ndarray) -> Design:
        """Standardise; features that do not vary in training are left out."""
        features_ND = np.asarray(features_ND, np.float64)
        mean_D, scale_D = features_ND[use_N].mean(0), features_ND[use_N].std(0)
        vary_D = scale_D > 1e-6
        rows_NR = (features_ND[:, vary_D] - mean_D[vary_D]) / scale_D[vary_D]
        if rows_NR.shape[1] > use_N.sum():
            # The weights lie in the span of the training points; under a rotation the penalty stays what it is.
            rows_NR = rows_NR @ np.linalg.svd(rows_NR[use_N], full_matrices=False)[2].T
        return cls(np.concatenate([rows_NR, np.ones((len(rows_NR), 1))], axis=1), use_N)

    def fit(self, positive_N: Bool[np.ndarray, "N"], strengths_K: Sequence[float]) -> Float[np.ndarray, "K N"]:
        """Log-odds of all points by regressions on the training points, one for each L2 penalty.

        Each minimises the mean log loss plus strength / 2 times the sum of the squared weights; the constant is free.
        """
        weights_R, odds = np.zeros(self.rows.shape[1]), []
        for strength in strengths_K:
            weights_R = _minimum(self.rows[self.use], positive_N[self.use].astype(float), strength, weights_R)
            odds.append(self.rows @ weights_R)
        return np.stack(odds)


def _minimum(design_NR: np.ndarray, target_N: np.ndarray, strength: float, weights_R: np.ndarray) -> np.ndarray:
    """The weights of least loss, by Newton's method from a start."""
    penalty_R = np.append(np.full(design_NR.shape[1] - 1, strength), 0.0)

    def loss(weights_R):
        odds_N = design_NR @ weights_R
        return np.mean(np.logaddexp(0, odds_N) - target_N * odds_N) + 0.5 * penalty_R @ weights_R**2

    least = loss(weights_R)
    for _ in range(STEPS):
        chance_N = 0.5 * (1 + np.tanh(0.5 * design_NR @ weights_R))
        gradient_R = design_NR.T @ (chance_N - target_N) / len(target_N) + penalty_R * weights_R
        curve_RR = (design_NR.T * (chance_N * (1 - chance_N))) @ design_NR / len(target_N) + np.diag(penalty_R + 1e-9)
        step_R = np.linalg.solve(curve_RR, gradient_R)
        size = 1.0
        while size > 1e-6 and loss(weights_R - size * step_R) > least:
            size /= 2
        weights_R = weights_R - size * step_R
        before, least = least, loss(weights_R)
        if before - least < 1e-9:
            break
    return weights_R
