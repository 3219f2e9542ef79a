"""Which record comes when, and in which form: a pure function of seed and step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int

from mvjax.data.encode import Form
from mvjax.errors import UserError

SHARES = (0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0)
"""Share of Multiverse data in each of the eight passes (arXiv 2506.09991, section 6)."""


@dataclass(frozen=True)
class Draw:
    """The record of one step."""

    index: int
    """Its number among the records."""
    form: Form
    """The form it is taught in."""
    epoch: int
    """The pass that the step is in, from 0."""


@dataclass(frozen=True)
class Curriculum:
    """An endless sequence of draws: pass after pass over all records, each with its share of Multiverse data.

    `curriculum(step)` depends on the fields and the step alone, so any position can be reached at once. Records that
    are taught in Multiverse form are chosen anew in each pass, except in the second of two neighbouring passes whose
    shares add up to 1: it is the complement of the first, so that each record is taught in both forms in the two (the
    paper's passes 4 and 5).
    """

    count: int
    """Number of records."""
    shares: tuple[float, ...] = SHARES
    """Share of Multiverse-form records in each pass; the last one holds for all later passes."""
    seed: int = 0
    """Decides the order and the choice."""
    repeat: tuple[int, ...] | None = None
    """How often each record comes in a pass; None: once."""
    shuffle: bool = True
    """Draw the records of a pass in random order; False: in the order that they are given."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError("the curriculum has no record to teach")
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise UserError(f"curriculum {self.shares}: must be shares from 0 to 1, one a pass")
        if self.repeat is not None and (len(self.repeat) != self.count or min(self.repeat) < 1):
            raise UserError("curriculum: `repeat` must give a number of 1 or more for each record")

    @cached_property
    def _deck(self) -> np.ndarray:
        return np.repeat(np.arange(self.count), self.repeat if self.repeat is not None else 1)

    def share(self, epoch: int) -> float:
        """Share of Multiverse-form records in a pass, counted from 0."""
        return self.shares[min(epoch, len(self.shares) - 1)]

    def is_complement(self, epoch: int) -> bool:
        """Whether a pass teaches each record in the form that it did not have in the pass before. A pass has one
        complement: of three passes of one half each the third is chosen anew."""
        complement = False
        for number in range(1, epoch + 1):
            complement = not complement and math.isclose(self.share(number - 1) + self.share(number), 1.0)
        return complement

    @property
    def length(self) -> int:
        """Steps in a pass."""
        return len(self._deck)

    def __call__(self, step: int) -> Draw:
        """The draw of a step, counted from 0."""
        epoch, place = divmod(step, self.length)
        order_N, multiverse_N = self.draws(epoch)
        return Draw(int(order_N[place]), "multiverse" if multiverse_N[place] else "autoregressive", epoch)

    @cached_property
    def draws(self) -> Callable[[int], tuple[Int[np.ndarray, "N"], Bool[np.ndarray, "N"]]]:
        """Of a pass, counted from 0: the record of each of its steps, and whether it is in Multiverse form."""
        return lru_cache(maxsize=4)(self._draws)

    def _draws(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng, deck_N = self._rng(epoch), self._deck
        chosen_N = self._chosen(rng, epoch)
        if self.is_complement(epoch):
            chosen_N = ~self._chosen(self._rng(epoch - 1), epoch - 1)
        order_N = rng.permutation(len(deck_N)) if self.shuffle else np.arange(len(deck_N))
        return deck_N[order_N], chosen_N[order_N]

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, epoch]))

    def _chosen(self, rng: np.random.Generator, epoch: int) -> np.ndarray:
        """Which cards of the deck are in Multiverse form, by a pass's own draw."""
        chosen_N = np.zeros(len(self._deck), bool)
        chosen_N[rng.permutation(len(chosen_N))[: round(self.share(epoch) * len(chosen_N))]] = True
        return chosen_N
