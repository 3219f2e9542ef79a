"""How a run gets on: one line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from mvjax.curator.totals import Totals

SHOWN_REASONS = 3


def line(totals: Totals) -> str:
    """The progress of a run, in one line."""
    seconds = max(totals.seconds, 1e-9)
    parts = [
        f"{totals.done:,}/{totals.total:,} records",
        f"{totals.parallel:,} parallel, {totals.sequential:,} sequential, {totals.rejected:,} rejected",
    ]
    if totals.calls or totals.replayed:
        parts.append(f"{totals.calls / seconds:.1f} calls/s")
        parts.append(f"{totals.tokens:,} tokens")
    if totals.cost:
        parts.append(f"{totals.cost:,.2f} spent")
    if totals.finished and totals.left:
        parts.append(f"{duration(totals.left * seconds / totals.finished)} left")
    if totals.reasons:
        top = totals.reasons.most_common(SHOWN_REASONS)
        parts.append("rejects: " + ", ".join(f"{reason or 'unknown'} {number:,}" for reason, number in top))
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class LiveLine:
    """One line at the bottom of a terminal."""

    every = 0.5

    def __init__(self, console: Console):
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, totals: Totals) -> None:
        from rich.text import Text

        self._live.update(Text(line(totals)), refresh=True)

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


class PlainLines:
    """A line at regular intervals, for logs."""

    def __init__(self, console: Console, every: float = 30.0):
        self.every = every
        self._console = console
        self._begun = False

    def show(self, totals: Totals) -> None:
        if self._begun:
            self.say(line(totals))
        self._begun = True

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to put away."""


def progress() -> LiveLine | PlainLines:
    """Whatever standard error can show."""
    from rich.console import Console

    console = Console(stderr=True)
    return LiveLine(console) if console.is_terminal else PlainLines(console)
