"""What a step's line of metrics says beyond what the step itself reports: rates, times, memory."""

from __future__ import annotations

import resource
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mvjax.data.packing import Batch
from mvjax.data.schedule import BatchFacts
from mvjax.training.clock import Clock
from mvjax.training.flops import ModelFlops, count_visible


class Mark(NamedTuple):
    """Where a run stands: sums since this start began."""

    loop: float
    """Seconds in the loop."""
    step: float
    """Seconds in steps."""
    data: float
    """Seconds of waiting for data."""
    tokens: int
    """Tokens that are no padding."""
    room: int
    """Tokens, padding included."""
    flops: float
    """Operations that the steps needed."""


class StepMetrics:
    """Makes the line of each step. Make it right before the loop, and give it every step.

    Args:
        clock: of this start; its "data" and "step" phases hold what their names say.
        steps, first: steps of the whole run, and those done before this start.
        room: tokens in a step's rows, padding included, all processes together.
        schedule: learning rate by steps done before.
        tags: how many times faster the tag rows learn; None: they are not trained.
        flops: the model's count; None: unknown, and so is the share of the peak.
        peak: operations a second that all chips together could do; None: unknown.
        skipped: steps that were skipped before this start.
        window: steps that rates are taken over.
    """

    def __init__(
        self,
        clock: Clock,
        steps: int,
        first: int,
        room: int,
        schedule: Callable[[int], Any],
        *,
        tags: float | None = None,
        flops: ModelFlops | None = None,
        peak: float | None = None,
        skipped: int = 0,
        window: int = 20,
    ):
        self.skipped = skipped
        """Steps that were skipped because something was not finite."""
        self._clock, self._steps, self._done, self._room = clock, steps, first, room
        self._schedule, self._tags, self._flops, self._peak = schedule, tags, flops, peak
        seconds = clock.seconds
        self._marks = deque([Mark(clock.loop, seconds["step"], seconds["data"], 0, 0, 0.0)], maxlen=window + 1)

    def step(
        self,
        number: int,
        metrics: Mapping[str, float],
        batch: Batch,
        facts: BatchFacts | None = None,
        *,
        good: bool = True,
    ) -> dict[str, Any]:
        """The line of a step that has just been done; see `mvjax.training.metrics` for its fields.

        Args:
            number: of the step, from 1.
            metrics: what the step reported, as Python numbers.
            batch: the rows that this process had.
            facts: of the whole batch; None: the rows of this process are all.
            good: whether it changed the weights; not where loss or gradient was not finite.
        """
        clock = self._clock
        clock.count(good)
        self.skipped += not good
        here, pairs = count_visible(batch)
        tokens = facts.tokens if facts is not None else here
        cost = 0.0
        if self._flops is not None:
            # Other processes' rows are taken to be like these.
            cost = self._flops.step(tokens, metrics["targets"], round(pairs * tokens / max(here, 1)))
        last, seconds = self._marks[-1], clock.seconds
        mark = Mark(
            clock.loop,
            seconds["step"],
            seconds["data"],
            last.tokens + tokens,
            last.room + self._room,
            last.flops + cost,
        )
        self._marks.append(mark)
        self._done = number
        first = self._marks[0]
        loop = mark.loop - first.loop
        rate = float(self._schedule(number - 1))
        used, most = memory()
        return {
            "step": number,
            **metrics,
            "learning_rate": rate,
            **({"learning_rate_tags": rate * self._tags} if self._tags is not None else {}),
            "tokens": number * self._room,
            "packing": tokens / self._room,
            "parallel": facts.parallel if facts is not None else None,
            "tokens_per_second": per(mark.tokens - first.tokens, loop),
            "room_per_second": per(mark.room - first.room, loop),
            "mfu": per(mark.flops - first.flops, loop * self._peak) if self._flops and self._peak else None,
            "data_wait": per(mark.data - first.data, loop),
            "step_seconds": mark.step - last.step,
            "data_seconds": mark.data - last.data,
            "compile_seconds": seconds["compile"],
            "checkpoint_seconds": seconds["checkpoint"],
            "sample_seconds": seconds["sample"],
            "held_out_seconds": seconds["held_out"],
            "seconds": clock.elapsed,
            "goodput": clock.goodput,
            "memory": used,
            "memory_peak": most,
            "skipped": self.skipped,
        }

    @property
    def seconds_left(self) -> float:
        """Time to the end of the run at the pace of the last steps; saving and sampling come on top."""
        first, last = self._marks[0], self._marks[-1]
        return (self._steps - self._done) * (last.loop - first.loop) / max(1, len(self._marks) - 1)


def per(amount: float, whole: float) -> float:
    """A share or rate; 0 of nothing."""
    return amount / whole if whole > 0 else 0.0


def memory(devices: Sequence[jax.Device] | None = None) -> tuple[int | None, int | None]:
    """Bytes in use and their peak, of the fullest device of this process; where devices do not tell (a CPU), resident
    memory of the process. None where nothing tells."""
    stats = [found for device in devices or jax.local_devices() if (found := device.memory_stats())]
    if stats:
        used, most = (max(x.get(name, 0) for x in stats) for name in ("bytes_in_use", "peak_bytes_in_use"))
        return used, most
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None, most
    return pages * resource.getpagesize(), most
