"""A lease: who may write to a directory of a bucket, where there are no locks.

The holder's name and the time of its last sign of life are in one object, which is only ever replaced by a conditional
write. Who finds it fresh and another's is refused. Who finds it stale, or made by the same launch, replaces it; the one
that was replaced finds out at its next sign of life, which `check` makes before anything is written.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mvjax.errors import UserError
from mvjax.storage.errors import Changed
from mvjax.storage.path import StoragePath, Versioned

BEAT, STALE = 30.0, 90.0
"""Seconds between two signs of life, and without one until anyone may take over. Clocks of hosts must agree better."""
SETTLE = 2.0
"""Seconds after which a lease is read again where conditional writes are not atomic."""

log = logging.getLogger(__name__)


class LeaseLost(UserError):
    """Another process has taken over: this one must not write any more."""


class Lease:
    """`with Lease(path, what): ...` holds it; `check` before each write tells whether it is still held.

    Args:
        path: the object that it is kept in.
        what: it protects, for messages.
        launch: a name that starts of the same launch share, as one after another of them takes over; "": none.
        beat, stale: seconds.
        date: seconds since 1970, which all hosts agree on.

    Entering it raises `UserError` where another holds it.
    """

    def __init__(
        self,
        path: StoragePath,
        what: str,
        *,
        launch: str = "",
        beat: float = BEAT,
        stale: float = STALE,
        settle: float = SETTLE,
        date: Callable[[], float] = time.time,
    ):
        self._path, self._what, self._launch, self._date = path, what, launch, date
        self._beat, self._stale, self._settle = beat, stale, settle
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._generation = b""
        self._lost = ""
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self.take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._path.patience)
        self.release()

    def take(self) -> None:
        """Take the lease; UserError where another holds it."""
        found = self._path.read_version()
        self._refuse(read(found))
        try:
            self._write(found.generation)
        except Changed:
            winner = read(self._path.read_version())
            if winner.get("holder") != self._holder:
                self._refuse(winner | {"launch": None})
                raise UserError(f"{self._what}: another process has just begun to write there") from None
            self._adopt()
        if self._path.is_atomic:
            return
        log.warning(
            "%s: this storage does not promise that one of two simultaneous starts is refused; start one at a time",
            self._what,
        )
        self._stop.wait(self._settle)
        self._refuse(read(self._path.read_version()) | {"launch": None})

    def _refuse(self, found: dict[str, Any]) -> None:
        """UserError for a lease that is another's and may not be replaced."""
        if not found or found.get("holder") == self._holder or (self._launch and found.get("launch") == self._launch):
            return
        age = self._date() - float(found.get("time", 0.0))
        if age < self._stale:
            raise UserError(
                f"{self._what}: another process is training this run ({found.get('holder')}, last sign of life "
                f"{max(0.0, age):.0f} s ago); if it has died, the same command will do in {self._stale - age:.0f} s"
            )

    def check(self) -> None:
        """Give a sign of life now; `LeaseLost` where another has taken over."""
        with self._one:
            if not self._lost:
                self._renew()
            if self._lost:
                raise LeaseLost(f"{self._what}: {self._lost} has taken over this run; this process ends without saving")

    def _renew(self) -> None:
        if not self._path.is_atomic:
            self._compare(read(self._path.read_version()))
        if not self._lost:
            try:
                self._write(self._generation)
            except Changed:
                self._adopt()

    def _adopt(self) -> None:
        """The lease is another version than the one that was written: is it this holder's, whose answer was lost?"""
        found = self._path.read_version()
        self._compare(read(found))
        self._generation = found.generation

    def _compare(self, found: dict[str, Any]) -> None:
        if found.get("holder") != self._holder:
            self._lost = str(found.get("holder", "someone who removed the lease"))

    def _write(self, generation: bytes) -> None:
        content = {"holder": self._holder, "launch": self._launch, "time": self._date()}
        self._generation = self._path.write_bytes(json.dumps(content).encode(), if_generation=generation)

    def _run(self) -> None:
        while not self._stop.wait(self._beat):
            with self._one:
                if self._lost or self._stop.is_set():
                    return
                try:
                    self._renew()
                except UserError as error:  # The next `check` insists.
                    log.warning("%s", error)

    def release(self) -> None:
        """Give it back, if it is still held: the next start need not wait until it is stale."""
        with self._one:
            if self._lost:
                return
            try:
                found = read(self._path.read_version())
                if found.get("holder") == self._holder:
                    gone = {**found, "time": 0.0}
                    self._path.write_bytes(json.dumps(gone).encode(), if_generation=self._generation)
            except (Changed, UserError) as error:
                log.warning("%s: the lease was not given back (%s)", self._what, error)


def read(found: Versioned) -> dict[str, Any]:
    """What a lease says; empty where there is none or it makes no sense."""
    try:
        content = json.loads(found.data or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
