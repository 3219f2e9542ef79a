"""What a run reports: JSON lines, TensorBoard, and a progress bar or plain lines.

Fields of a line of metrics.jsonl, and names of TensorBoard's curves. Rates and shares are over the last 20 steps of
this start, without the time for compiling, saving and sampling; null: not known here.

    step                  number of the step, from 1; TensorBoard's horizontal axis
    loss                  weighted mean cross-entropy of the step's targets, in nats, z-loss included
    loss_PART             the same by part, unweighted: sequential, path, tag, conclusion; null: the batch has none
    accuracy              share of targets whose token has the largest logit
    accuracy_PART         the same by part
    targets               tokens with a loss
    gradient_norm         norm of the whole gradient, before it is clipped
    learning_rate         of this step
    learning_rate_tags    of the tag rows, where they are trained
    tokens                room in the rows of all steps so far, padding included
    packing               packing efficiency of the batch: its tokens that are no padding over the room in its rows
    parallel              degree of parallelism of the batch's Multiverse-form documents (SPEC section 8)
    tokens_per_second     tokens that are no padding, all processes together
    room_per_second       the same with padding
    mfu                   operations that the model needs (`mvjax.training.flops`; of several processes, the first one's
                          rows speak for all) over the bfloat16 peak of all chips; null on a chip without a known peak
    data_wait             share of the time that the loop waited for data and put it on the devices
    step_seconds          this step alone
    data_seconds          waiting for this step's data
    compile_seconds       of this start so far
    checkpoint_seconds    of this start so far, as far as the loop waited
    sample_seconds        of this start so far
    held_out_seconds      of this start so far
    seconds               of this start so far, all in all
    goodput               share of the wall time since the run's first start, pauses included, that was spent in steps
                          that count; those that were lost and done again do not (`mvjax.training.clock`)
    memory, memory_peak   bytes in use on the fullest device of process 0; on a CPU its resident memory
    skipped               steps that changed nothing, because loss or gradient was not finite

After a step whose parameters were measured on held-out text (`held_out.files`):

    held_out_loss         mean cross-entropy of its targets in nats, without z-loss
    held_out_loss_PART    the same by part
    held_out_accuracy     share of targets whose token has the largest logit
    held_out_accuracy_PART  the same by part
    held_out_targets      tokens that were measured
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvjax.errors import UserError
from mvjax.files import atomic_path

TIMES = (
    *("tokens_per_second", "room_per_second", "mfu", "data_wait", "step_seconds", "data_seconds", "compile_seconds"),
    *("checkpoint_seconds", "sample_seconds", "held_out_seconds", "seconds", "goodput", "memory", "memory_peak"),
)
"""Fields that two equal runs may differ in."""


class MetricsFile:
    """metrics.jsonl: one JSON object a line, flushed line by line; numbers that are not finite become null."""

    def __init__(self, path: Path, first_step: int):
        """Lines of steps beyond `first_step`, which a crash may have left, are dropped: they will be made again."""
        lines = read_metrics(path)
        self.written = max((line.get("step", 0) for line in lines), default=0)
        """The last step that was written before."""
        kept = [line for line in lines if line.get("step", 0) <= first_step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; UserError where it cannot be written."""
        try:
            self._file.write(json.dumps({k: plain(v) for k, v in line.items()}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self._file.name}: cannot be written ({error.strerror}); make room and start again with the same "
                "command"
            ) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # What could not be flushed has been complained about.
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a crash cut short is left out. Empty where there is no file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def plain(value: Any) -> Any:
    """A JSON value: floats in the fewest digits that tell them from other float32 numbers, None where not finite."""
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else None
    return value


class TensorBoard:
    """Event files of the finite numbers among the metrics."""

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, int | float) and math.isfinite(value) and name != "step":
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class Display:
    """A bar on a terminal, plain lines in a pipe or a file; nothing at all where `quiet`, for all processes but one."""

    def __init__(self, name: str, steps: int, first_step: int, console: Console | None = None, *, quiet: bool = False):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._steps, self._quiet = steps, quiet
        self._bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(name, total=steps, completed=first_step, status="compiling")
            self._bar.start()

    def step(self, line: Mapping[str, Any], seconds_left: float, log: bool) -> None:
        """Show the metrics of a finished step; plain lines only where `log`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=line["step"], status=status(line))
        elif log:
            rate = f"lr {line['learning_rate']:.3g}"
            self.say(f"step {line['step']}/{self._steps}  {status(line)}  {rate}  left {duration(seconds_left)}")

    def say(self, text: str) -> None:
        """Text of its own, above the bar where there is one."""
        if not self._quiet:
            self.console.print(text, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def status(line: Mapping[str, Any]) -> str:
    """A step's metrics in short; what is not known is left out."""
    parts = [f"loss {line['loss']:.4f}", f"{line['tokens_per_second']:.0f} tokens/s"]
    for name, label in (("mfu", "MFU"), ("data_wait", "data wait"), ("goodput", "goodput")):
        if line.get(name) is not None:
            parts.append(f"{label} {100 * line[name]:.1f} %")
    if line.get("skipped"):
        parts.append(f"skipped {line['skipped']}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
