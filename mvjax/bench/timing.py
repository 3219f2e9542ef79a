"""Repetitions in turn, and how they are reported: the median, the smallest and the largest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Side = TypeVar("Side")
"""What sides are called by."""


@dataclass(frozen=True)
class Spread:
    """A figure of several repetitions."""

    median: float
    low: float
    high: float
    count: int
    """Repetitions."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of these values; there must be one at least."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}-{number(self.high)})"


def number(value: float) -> str:
    """Three significant digits, without an exponent for sizes that people read."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratios(above: Iterable[float], below: Iterable[float]) -> Spread:
    """Spread of the ratios of values that were measured side by side."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def alternate(
    sides: Mapping[Side, Callable[[], Any]],
    repeat: int,
    *,
    warm: int = 1,
    pause: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Side, list[Any]]:
    """What each side returned in each repetition. The sides take turns, in the opposite order every other time, so that
    a machine that slows down or speeds up meets all of them alike.

    Args:
        warm: repetitions before the first that counts.
        pause: seconds between two sides, for threads of the one that still spin.
        say: receives a line about the progress.
    """
    results: dict[Side, list[Any]] = {name: [] for name in sides}
    for turn in range(-warm, repeat):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in order:
            say(f"{name}: {'warm-up' if turn < 0 else f'{turn + 1} of {repeat}'}")
            time.sleep(pause)
            value = sides[name]()
            if turn >= 0:
                results[name].append(value)
    return results


def seconds(function: Callable[[], Any]) -> float:
    """Wall clock of a call, up to the moment when its arrays are there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


class CompilationCounter:
    """Counts what XLA compiles, from any caller."""

    def __init__(self):
        self.count = 0

    @contextmanager
    def counting(self) -> Generator[CompilationCounter]:
        """Count inside the `with` block."""
        from jax import monitoring

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            self.count += event.endswith("backend_compile_duration")

        monitoring.register_event_duration_secs_listener(listen)
        try:
            yield self
        finally:
            monitoring.unregister_event_duration_listener(listen)
