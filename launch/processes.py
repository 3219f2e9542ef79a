"""Processes of one start on this machine: run, watch, forward signals, end the rest when one dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common import AGAIN, INTERRUPTED, overall_status, say

CRASH_GRACE = 10.0
"""Seconds (at most) that the other processes get when one has died without notice: they wait for it in vain."""

KILL_GRACE = 5.0
"""Seconds (at most) from SIGTERM to SIGKILL."""

POLL = 0.05


@dataclass
class Process:
    """A command to run, and what became of it."""

    name: str
    """What messages call it."""
    words: list[str]
    """The command."""
    log: Path | None = None
    """Where its output goes, errors included; None: where that of this process goes."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables beside those of this process."""
    popen: subprocess.Popen | None = None
    """The running command."""
    status: int | None = None
    """Exit status once ended; 128 + N for signal N."""
    ended_here: bool = False
    """Ended by the watcher: its status says nothing about the run."""

    def start(self) -> None:
        with contextlib.ExitStack() as stack:
            log = None
            if self.log is not None:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(self.log.open("ab"))
            self.popen = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | self.environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches the watcher only, which forwards it once
                preexec_fn=end_with_parent,
            )

    def poll(self) -> bool:
        """Whether it is still running; the first time it is not, what it left behind is ended."""
        if self.status is not None or self.popen is None:
            return False
        if (code := self.popen.poll()) is None:
            return True
        self.status = code if code >= 0 else 128 - code
        self.send(signal.SIGKILL)
        return False

    def send(self, number: int) -> None:
        """A signal to the process; SIGKILL goes to its children, too."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGKILL:
                    os.killpg(self.popen.pid, number)
                elif self.status is None:
                    os.kill(self.popen.pid, number)

    def how(self) -> str:
        """How it ended, in words."""
        if self.status is not None and self.status > 128 and self.status != INTERRUPTED:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(self.status - 128).name}"
        return f"ended with status {self.status}"

    def last_line(self) -> str:
        """The last line of its log that is not empty."""
        if self.log is None:
            return ""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 4096))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
            return next((line for line in reversed(lines) if line), "")
        return ""


@dataclass(frozen=True)
class Outcome:
    """How a start ended."""

    status: int
    """The overall status of the processes."""
    signalled: bool
    """A signal to the launcher requested the end: the launch is over, whatever the status."""
    lost: bool
    """A process was killed by a signal from outside."""


def run(
    processes: list[Process],
    *,
    grace: float,
    shown: Callable[[bytes], None] | None = None,
    started: Callable[[list[int]], None] = lambda numbers: None,
) -> Outcome:
    """Run the processes until all have ended. `shown` gets the output of the first one, as it comes; `started` the
    numbers of the processes.

    When one ends badly, the others have `grace` seconds to end by themselves if it ended in order (75, 130), and
    CRASH_GRACE at most if it did not; then they are ended. Signals that arrive here go to all of them.
    """
    tail = Tail(processes[0].log, shown)
    signalled, bad, deadline, hard = False, None, None, False
    with Signals() as signals:
        try:
            for process in processes:
                process.start()
            started([process.popen.pid for process in processes if process.popen])
            while True:
                running = [process for process in processes if process.poll()]
                tail.show()
                if bad is None and (bad := first_bad(processes)):
                    orderly = signalled or bad.status in (AGAIN, INTERRUPTED)
                    deadline = time.monotonic() + (grace if orderly else min(grace, CRASH_GRACE))
                    if len(processes) > 1:
                        report_failure(bad, running, processes[0], deadline - time.monotonic())
                if not running:
                    break
                for number in signals.take():
                    signalled = True
                    say(f"{signal.Signals(number).name}: passed on to {names(running)}")
                    for process in running:
                        process.send(number)
                if deadline is not None and time.monotonic() > deadline:
                    for process in running:
                        process.ended_here = True
                        process.send(signal.SIGKILL if hard else signal.SIGTERM)
                    deadline, hard = time.monotonic() + min(grace, KILL_GRACE), True
                time.sleep(POLL)
        finally:
            for process in processes:
                if process.status is None:
                    process.send(signal.SIGKILL)
    counted = [process for process in processes if not process.ended_here]
    statuses = [process.status or 0 for process in sorted(counted, key=lambda process: process is not bad)]
    lost = any(status > 128 and status != INTERRUPTED for status in statuses)
    return Outcome(overall_status(statuses), signalled, lost and not signalled)


def first_bad(processes: list[Process]) -> Process | None:
    """The process that has ended badly; of several found at the same time, the one whose status is the overall one."""
    ended = [process for process in processes if process.status]
    worst = overall_status(process.status or 0 for process in ended)
    return next((process for process in ended if process.status == worst), None)


def report_failure(bad: Process, running: list[Process], visible: Process, seconds: float) -> None:
    """The one message about a process that ended badly."""
    last = bad.last_line() if bad is not visible else ""
    rest = f"; {names(running)} must end within {seconds:.0f} s" if running else ""
    say(f"{bad.name} {bad.how()}{': ' + last if last else ''} (log {bad.log}){rest}")


def names(processes: list[Process]) -> str:
    return processes[0].name if len(processes) == 1 else f"{len(processes)} processes"


class Signals:
    """While entered, SIGINT, SIGTERM and SIGHUP (as SIGTERM) are kept for `take`.

    The first SIGTERM is passed on, repeated ones are dropped: schedulers send several, and `mvjax train` ignores those
    after the first as well. Every SIGINT is passed on: the second one makes `mvjax train` stop at once, unsaved.
    """

    KEPT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> Signals:
        self._waiting: list[int] = []
        self._terminated = False
        kept = [number for number in self.KEPT if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self._before = {number: signal.signal(number, self._keep) for number in kept}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, _frame: object) -> None:
        if number != signal.SIGINT:
            if self._terminated:
                return
            number, self._terminated = signal.SIGTERM, True
        self._waiting.append(number)

    def take(self) -> list[int]:
        """The signals since the last time."""
        taken, self._waiting = self._waiting, []
        return taken


class Tail:
    """Gives what is added to a file to a function."""

    def __init__(self, path: Path | None, shown: Callable[[bytes], None] | None):
        self._path, self._shown = path, shown if path else None
        self._at = path.stat().st_size if path and path.exists() else 0

    def show(self) -> None:
        if (
            self._path is None
            or self._shown is None
            or not self._path.exists()
            or self._path.stat().st_size <= self._at
        ):
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        try:
            self._shown(new)
        except OSError:  # nobody reads any more: the log still has it
            self._shown = None


def to_screen(chunk: bytes) -> None:
    """Output of the first process, as it is."""
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child of a launcher: should the launcher be killed, the child is killed, too (Linux)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
