"""Where the time of a run goes: phases of one start, and goodput over all starts."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator
from pathlib import Path

from mvjax.files import atomic_path

PHASES = ("start", "compile", "data", "step", "checkpoint", "sample", "held_out", "profile")
"""What a start's time is spent on; what belongs to none of them is "other".

start: before the loop, as far as it is nothing else; compile: waiting for the compiler; data: waiting for the next
batch and putting it on the devices; step: training; checkpoint: restoring and saving, as far as the loop waits for it;
sample: generating one; held_out: measuring the loss on held-out text; profile: starting JAX's profiler, and writing
what it recorded.
"""
OTHER = "other"
OUTSIDE = ("start", "compile", "checkpoint", "sample", "held_out", "profile")
"""Phases that are no part of the loop's own time."""

FIRST = "first_start"


class Clock:
    """Charges every moment since it was made to one phase: `with clock("data"): ...`, the inner one where they nest.

    It begins in "start"; `loop_begins` ends that. Goodput is the share of the wall time since the run's first start,
    times without a process included, that was spent in steps that count. A step counts once `count` is called. What is
    counted is part of every checkpoint (`record`), and a start that restores one continues from it (`resume`): so
    steps that were lost with a crash and are done again do not count.

    Args:
        now: seconds, rising.
        date: seconds since 1970, which processes on different machines agree on.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, date: Callable[[], float] = time.time):
        self._now, self._date = now, date()
        self._began = self._mark = now()
        self._seconds = dict.fromkeys((*PHASES, OTHER), 0.0)
        self._open = ["start"]
        self._before = 0.0
        self._counted = 0.0
        self._counted_to = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Generator[None, None, None]:
        """Charge what is inside to a phase. ValueError where there is no such phase."""
        if phase not in PHASES:
            raise ValueError(f"{phase!r} is none of the phases {', '.join(PHASES)}")
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def loop_begins(self) -> None:
        """What is in no phase from now on is "other", no longer "start"."""
        self._charge()
        self._open[0] = OTHER

    def count(self, good: bool = True) -> float:
        """The last step is done; returns its seconds. `good`: it counts, so it changed the state."""
        step = self.seconds["step"]
        spent, self._counted_to = step - self._counted_to, step
        self._counted += spent * good
        return spent

    def record(self) -> dict[str, float]:
        """What a checkpoint of this moment must hold for `resume`."""
        return {"counted": self._counted}

    def resume(self, path: Path, record: dict[str, float] | None = None) -> None:
        """Go on with the run whose first start is dated in the file at `path`; it is written where there is none.

        Call it where the metrics are written (process 0), once, before the first step.

        Args:
            record: of the checkpoint that was restored; None: none was.
        """
        try:
            first = float(json.loads(path.read_text(encoding="utf-8"))[FIRST])
        except (OSError, ValueError, KeyError, TypeError):
            # Without the date of the first start, what was counted then would be a share of nothing known.
            first, record = self._date, None
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({FIRST: first}) + "\n", encoding="utf-8")
        self._before = max(0.0, self._date - first)
        self._counted = float((record or {}).get("counted", 0.0))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of this start in each phase, and in "other"; together all of its time."""
        self._charge()
        return dict(self._seconds)

    @property
    def elapsed(self) -> float:
        """Seconds of this start."""
        self._charge()
        return self._mark - self._began

    @property
    def loop(self) -> float:
        """Seconds of this start in the loop itself: steps, waiting for data, and what is in no phase."""
        seconds = self.seconds
        return sum(seconds.values()) - sum(seconds[phase] for phase in OUTSIDE)

    @property
    def goodput(self) -> float:
        """Share of the wall time since the run's first start that was spent in steps that count."""
        wall = self._before + self.elapsed
        return min(1.0, self._counted / wall) if wall > 0 else 0.0

    def _charge(self) -> None:
        now = self._now()
        self._seconds[self._open[-1]] += now - self._mark
        self._mark = now
