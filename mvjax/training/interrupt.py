"""Ctrl-C and SIGTERM: finish the step, save, stop."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `asked`; a second one interrupts at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, say=print):
        self.asked: signal.Signals | None = None
        self._say = say
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupt:
        try:
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        except ValueError:  # not the main thread: whoever owns it decides
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        self._say(f"{self.asked.name}: saving after this step (once more: stop at once, unsaved)")
