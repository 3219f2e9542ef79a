"""All that a run reports: metrics.jsonl, TensorBoard, the display, and what becomes of a step that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mvjax.data.packing import Batch
from mvjax.data.schedule import BatchFacts
from mvjax.errors import UserError
from mvjax.training.bad_batches import BadBatches
from mvjax.training.checkpoints import Checkpoints
from mvjax.training.clock import Clock
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import is_first
from mvjax.training.held_out import LOSS
from mvjax.training.metrics import Display, MetricsFile, TensorBoard, duration
from mvjax.training.step_metrics import StepMetrics
from mvjax.training.tracker import Tracker


class RunLog:
    """Give it every step. All processes do; only process 0 writes and prints.

    Args:
        record: of the checkpoint that this start resumes; empty: there is none.
        lines: makes the line of each step.
        bad: keeps the batch of a step that is not finite.
        first: steps done before this start.
        last: number of the last step of this start.
        steps: steps of the whole run.
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        clock: Clock,
        checkpoints: Checkpoints,
        record: Mapping[str, Any],
        lines: StepMetrics,
        bad: BadBatches,
        *,
        first: int,
        last: int,
        steps: int,
        console: Console | None,
    ):
        self._config, self._clock, self._checkpoints, self._last = config, clock, checkpoints, last
        self._lines, self._bad = lines, bad
        self._display = Display(config.name, steps, first, console, quiet=not is_first())
        self._writers: list[MetricsFile | TensorBoard | Tracker] = []
        if is_first():
            clock.resume(directory / "clock.json", record.get("clock"))
            file = MetricsFile(directory / "metrics.jsonl", first)
            self._writers.append(file)
            if config.output.tensorboard:
                self._writers.append(TensorBoard(directory / "tensorboard", first))
            if config.output.tracker:
                self._writers.append(Tracker(config.output.tracker, config, directory, file.written, self.say))

    def say(self, text: str) -> None:
        """Print a text of its own."""
        self._display.say(text)

    def step(self, number: int, metrics: dict[str, Any], batch: Batch, facts: BatchFacts | None = None) -> None:
        """Report a step that has just been done.

        Args:
            number: of the step, from 1.
            metrics: what the step reported, as Python numbers.
            batch: the rows that this process had.
            facts: of the whole batch; None: the rows of this process are all.
        Raises:
            UserError: loss or gradient is not finite, and no more steps may be skipped.
        """
        good = metrics.pop("finite")
        line = self._lines.step(number, metrics, batch, facts, good=good)
        log = number % self._config.output.log_every == 0 or number == self._last or not good or LOSS in metrics
        for writer in self._writers if log else ():
            writer.write(line)
        self._display.step(line, self._lines.seconds_left, log)
        if not good:
            self._skip(number, metrics, batch, facts)

    def _skip(self, number: int, metrics: Mapping[str, Any], batch: Batch, facts: BatchFacts | None) -> None:
        """Keep the batch of a step that is not finite; a warning, or the end of the run."""
        try:
            where = f"its batch is in {self._bad.save(number, metrics, batch, facts)}"
        except OSError as error:
            where = f"its batch could not be kept ({error.strerror})"
        complaint = (
            f"step {number}: the loss ({metrics['loss']}) or its gradient ({metrics['gradient_norm']}) is not finite; "
            f"{where}"
        )
        if self._lines.skipped > self._config.steps.max_skipped:
            self._checkpoints.wait()
            saved = max(self._checkpoints.steps(), default=0)
            raise UserError(
                f"{complaint}; the last checkpoint is good (step {saved}): lower optimizer.learning_rate or "
                "optimizer.clip, or look at the data"
            )
        self.say(f"warning: {complaint}; the step is skipped")

    def record(self) -> dict[str, Any]:
        """What a checkpoint of this moment must hold for the next start."""
        return {"skipped": self._lines.skipped, "clock": self._clock.record()}

    def saved(self, step: int, what: str) -> None:
        """The last line of a start."""
        self.say(f"{self._config.name}: step {step} saved after {duration(self._clock.elapsed)}, {what}")

    def close(self) -> None:
        """Close the files and the display."""
        for writer in self._writers:
            writer.close()
        self._display.close()
