"""A clock that stands still until it is told to go on."""

from __future__ import annotations


class FakeTime:
    """`now()` and `date()` for `mvjax.training.clock.Clock`."""

    def __init__(self, date: float = 1_000_000.0):
        self.seconds, self._date = 50.0, date

    def now(self) -> float:
        return self.seconds

    def date(self) -> float:
        return self._date + self.seconds

    def __call__(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.seconds += seconds
