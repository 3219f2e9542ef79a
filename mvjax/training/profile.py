"""A window of steps under JAX's profiler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

import jax

from mvjax.training.clock import Clock


class Profile:
    """Records some steps into a directory, for TensorBoard's profile page or Perfetto.

    Put each step inside `with profile(number):`. A start that begins within the window records the rest of it. What is
    recorded when the run ends or is interrupted is kept: `close` always. A profiler that fails does not end the run.

    Args:
        directory: the trace goes to plugins/profile/TIME in it.
        first: number of the first step that is recorded; 0: none is.
        count: steps that are recorded.
        clock: what it costs is charged to "profile".
        say: prints where the trace is, or why there is none.
    """

    def __init__(self, directory: Path, first: int, count: int, clock: Clock, say: Callable[[str], None] = print):
        self._directory, self._clock, self._say = directory, clock, say
        self._window = range(first, first + count) if first > 0 else range(0)
        self._recording = False

    @contextlib.contextmanager
    def __call__(self, number: int) -> Generator[None, None, None]:
        """A step; what it starts on the devices must have ended by the end of the block."""
        if number in self._window and not self._recording:
            self._start()
        if not self._recording:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if number == self._window[-1]:
            self.close()

    def close(self) -> None:
        """End the recording, if there is one."""
        if not self._recording:
            return
        self._recording, self._window = False, range(0)
        try:
            with self._clock("profile"):
                jax.profiler.stop_trace()
        except Exception as error:
            self._fail(error)
        else:
            self._say(f"profile: recorded in {self._directory}")

    def _start(self) -> None:
        try:
            with self._clock("profile"):
                self._directory.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(self._directory))
        except Exception as error:
            self._window = range(0)
            self._fail(error)
        else:
            self._recording = True

    def _fail(self, error: Exception) -> None:
        self._say(f"profile: none could be recorded ({' '.join(str(error).split())[:200]})")
