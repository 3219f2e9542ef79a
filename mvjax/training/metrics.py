"""What a run reports: JSON lines, TensorBoard, and a progress bar or plain lines."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvjax.files import atomic_path


class MetricsFile:
    """metrics.jsonl: one JSON object a line, flushed line by line; numbers that are not finite become null."""

    def __init__(self, path: Path, first_step: int):
        """Lines of steps beyond `first_step`, which a crash may have left, are dropped: they will be made again."""
        kept = [line for line in read_metrics(path) if line.get("step", 0) <= first_step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps({k: plain(v) for k, v in line.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
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
    """A JSON value: floats to six significant digits, None where not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class TensorBoard:
    """Event files of the finite numbers among the metrics."""

    def __init__(self, directory: Path, first_step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step + 1)

    def write(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, int | float) and math.isfinite(value) and name != "step":
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class Meter:
    """Tokens a second and the time that is left, from the time that the last steps took."""

    def __init__(self, steps_left: int, window: int = 20):
        self._left = steps_left
        self._marks: list[float] = [time.monotonic()]
        self._tokens: list[int] = []
        self._window = window

    def step(self, tokens: int) -> None:
        """One step of so many tokens is done. The first one, which waits for the compiler, is not counted later on."""
        self._left -= 1
        self._marks.append(time.monotonic())
        self._tokens.append(tokens)
        keep = min(self._window, max(1, len(self._tokens) - 1)) if len(self._tokens) > 1 else 1
        self._marks, self._tokens = self._marks[-keep - 1 :], self._tokens[-keep:]

    @property
    def tokens_per_second(self) -> float:
        seconds = self._marks[-1] - self._marks[0]
        return sum(self._tokens) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        return self._left * (self._marks[-1] - self._marks[0]) / max(1, len(self._tokens))


class Display:
    """A bar on a terminal, plain lines in a pipe or a file."""

    def __init__(self, name: str, steps: int, first_step: int, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._steps = steps
        self._bar: Progress | None = None
        if self.console.is_terminal:
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

    def step(self, line: dict[str, Any], seconds_left: float, log: bool) -> None:
        """Show the metrics of a finished step; plain lines only where `log`."""
        status = f"loss {line['loss']:.4f}  {line['tokens_per_second']:.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=line["step"], status=status)
        elif log:
            rate = f"lr {line['learning_rate']:.3g}"
            self.say(f"step {line['step']}/{self._steps}  {status}  {rate}  left {duration(seconds_left)}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
