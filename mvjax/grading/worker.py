"""Processes in which answers are compared, ended when a comparison takes too long, and used again when not."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time

from mvjax.errors import UserError

SECONDS = 4.0
"""Time of one comparison."""
START = 120.0
"""Time in which a process must be ready; importing sympy takes a second on a machine that has nothing else to do."""
MOST = 4
"""Processes at most; further threads wait."""
NO_LIBRARY = "comparing answers needs math-verify: pip install 'mvjax[evaluate]'"

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from mvjax.grading.child import main; main()"


class Workers:
    """Up to MOST processes; safe to use from any thread, and after a fork."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS):
        self._most, self._seconds = most, seconds
        self._new()

    def _new(self) -> None:
        self._pid, self._free = os.getpid(), threading.Semaphore(self._most)
        self._lock, self._idle = threading.Lock(), []

    def equal(self, given: str, wanted: str, kind: str) -> bool:
        """Whether two answers are equal; False where that is not found in time.

        Raises:
          UserError: math-verify is not installed, or the process cannot start.
        """
        if self._pid != os.getpid():  # the parent's processes are not ours
            self._new()
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is not None and not worker.alive():
                worker = worker.end()
            worker = worker or _Worker()
            verdict = worker.ask(given, wanted, kind, self._seconds)
            if verdict is None:
                worker.end()
                return False
            with self._lock:
                self._idle.append(worker)
            return verdict

    def end(self) -> None:
        """End all processes that are idle."""
        if self._pid == os.getpid():
            with self._lock:
                idle, self._idle = self._idle, []
            for worker in idle:
                worker.end()


class _Worker:
    """One process."""

    def __init__(self):
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(NO_LIBRARY)
        # -P: a module of the user's working directory is none of the library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers, self._read = self._process.stdin, self._process.stdout, b""
        if self._line(START) != "ready":
            self.end()
            raise UserError(f"the process that compares answers did not start within {START:g} s")

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, given: str, wanted: str, kind: str, seconds: float) -> bool | None:
        """The verdict; None where the process ends or takes longer."""
        question = json.dumps([given, wanted, kind, seconds]).encode() + b"\n"
        try:
            self._questions.write(question)
            self._questions.flush()
        except OSError:
            return None
        verdict = self._line(seconds)
        return verdict if isinstance(verdict, bool) else None

    def _line(self, seconds: float) -> object:
        """The next line that it writes; None where none comes in time."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while b"\n" not in self._read:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1_000):
                return None
            if not (more := os.read(self._answers.fileno(), 65_536)):
                return None
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # of a question that nobody has read
            self._questions.close()
        self._answers.close()


WORKERS = Workers()
atexit.register(WORKERS.end)
