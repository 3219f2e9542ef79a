"""Ctrl-C and SIGTERM: finish the step, save, stop; notices of the machine: save. All processes after the same step."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import jax

from mvjax.training.distributed import client, is_first

KEY, SAVE = "mvjax/stop", "mvjax/save"
MARGIN = 2
"""Steps from the one at which process 0 hears of a signal to the last one. No process can be further ahead: none ends
a step in which another has not taken part."""


class Interrupt:
    """While entered, the first SIGINT or SIGTERM asks for a stop; a second SIGINT interrupts at once, unsaved.

    Schedulers repeat their SIGTERM: more of them change nothing. `save` asks for a checkpoint of all processes.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, say=print):
        self.asked: signal.Signals | None = None
        """The signal that this process, or with several any of them, was sent."""
        self._say = say
        self._announced = False
        self._wanted = 0
        self._seen: set[str] = set()
        self._before: dict[signal.Signals, Any] = {}

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
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = signal.Signals(number)
        self._say(f"{self.asked.name}: saving after this step (Ctrl-C once more: stop at once, unsaved)")

    def stop(self, why: str) -> None:
        """Ask for a stop as SIGTERM does, from any thread."""
        self._say(why)
        if self.asked is None:
            self.asked = signal.SIGTERM

    def save(self, why: str) -> None:
        """Ask for a checkpoint soon, from any thread."""
        self._say(f"{why}: saving soon")
        self._wanted += 1

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`, because a process has asked for one; every process asks after every
        step, after `stops`, and gets the same answer."""
        store = client()
        if store is None:
            due, self._wanted = self._wanted > 0, 0
            return due
        if self._wanted:
            store.key_value_set(f"{SAVE}/asked/{jax.process_index()}-{step}", "1")
            self._wanted = 0
        shown = [key.rsplit("/", 2)[-2:] for key, _ in store.key_value_dir_get(SAVE)]
        if is_first():
            new = {name for kind, name in shown if kind == "asked"} - self._seen
            self._seen |= new
            if new:
                store.key_value_set(f"{SAVE}/at/{step + MARGIN}", "1", allow_overwrite=True)
        return str(step) in {name for kind, name in shown if kind == "at"}

    def stops(self, step: int) -> bool:
        """Whether the run ends here, after `step`; every process asks after every step and gets the same answer."""
        store = client()
        if store is None:
            return self.asked is not None
        if self.asked is not None and not self._announced:
            store.key_value_set(f"{KEY}/asked", self.asked.name, allow_overwrite=True)
            self._announced = True
        shown = {key.rsplit("/", 1)[-1]: value for key, value in store.key_value_dir_get(KEY)}
        if is_first() and "asked" in shown and "last" not in shown:
            shown["last"] = f"{step + MARGIN} {shown['asked']}"
            store.key_value_set(f"{KEY}/last", shown["last"])
        last, _, name = shown.get("last", "").partition(" ")
        if not last or step < int(last):
            return False
        self.asked = signal.Signals[name]
        return True
