"""Which record comes when, and in which form: a pure function of seed and step."""

from __future__ import annotations

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
    are taught in Multiverse form are chosen anew in each pass.
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
        rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, epoch]))
        deck_N = self._deck
        chosen_N = np.zeros(len(deck_N), bool)
        share = self.shares[min(epoch, len(self.shares) - 1)]
        chosen_N[rng.permutation(len(deck_N))[: round(share * len(deck_N))]] = True
        order_N = rng.permutation(len(deck_N)) if self.shuffle else np.arange(len(deck_N))
        return deck_N[order_N], chosen_N[order_N]
