"""Several processes as one run: how they find each other, what they must agree on, and what if one is lost.

The environment says how: MVJAX_COORDINATOR (host:port of process 0), MVJAX_PROCESSES and MVJAX_PROCESS; or
MVJAX_DISTRIBUTED=auto where JAX finds them by itself (TPU pods, Slurm, Kubernetes). Nothing set: one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from mvjax.errors import UserError

EXIT_AGAIN = 75
"""Status that asks for another start (EX_TEMPFAIL): pre-empted and saved, or a peer was lost."""

PATIENCE = 120.0
"""Seconds that the processes of a run wait for each other where all should come to the same place at once."""
BEAT, SILENCE = 5.0, 60.0
"""Seconds between two signs of life of a process, and without one until it counts as lost."""

VERSIONS = ("mvjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Join the run's processes, if the environment names any; call it before anything asks JAX for devices.

    Raises:
        UserError: the variables make no sense, or the others are not there in time.
    """
    coordinator = environment.get("MVJAX_COORDINATOR")
    if coordinator is None and environment.get("MVJAX_DISTRIBUTED") is None:
        return
    options: dict[str, Any] = {"initialization_timeout": int(PATIENCE)}
    if coordinator is not None:
        processes, process = (whole(environment, name) for name in ("MVJAX_PROCESSES", "MVJAX_PROCESS"))
        if not 0 <= process < processes:
            raise UserError(f"MVJAX_PROCESS = {process} is none of the {processes} processes of MVJAX_PROCESSES")
        options |= {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    elif environment["MVJAX_DISTRIBUTED"] != "auto":
        raise UserError(f"MVJAX_DISTRIBUTED = {environment['MVJAX_DISTRIBUTED']!r}; the only value is auto")
    if environment.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        where = coordinator or "auto"
        raise UserError(f"the processes of the run did not find each other ({where}): {reason}") from error


def whole(environment: Mapping[str, str], name: str) -> int:
    """A whole number of the environment; UserError where it is none."""
    text = environment.get(name, "")
    if not text.isdigit():
        raise UserError(f"{name} = {text!r}: a run of several processes needs a whole number there")
    return int(text)


def is_first() -> bool:
    """Whether this is process 0, which speaks and writes for all."""
    return jax.process_index() == 0


def client():
    """The key-value store that all processes of the run share; None in a run of one."""
    from jax._src import distributed

    return distributed.global_state.client if jax.process_count() > 1 else None


class HostSync:
    """Places that all processes come to in the same order, with something to show to each other."""

    def __init__(self, patience: float = PATIENCE):
        self._patience = patience
        self._places = 0

    def __enter__(self) -> HostSync:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UserError):
            self.fail(error)

    def gather(self, what: str, value: Any, patience: float | None = None) -> list[Any]:
        """A JSON value of every process, by number; `patience` in seconds where it is not the usual one.

        Raises:
            UserError: a process does not come in time, or came to say that it failed; the same on all others.
        """
        store = client()
        if store is None:
            return [value]
        self._places += 1
        key = f"mvjax/{self._places}"
        store.key_value_set(f"{key}/{jax.process_index()}", json.dumps({"what": what, "value": value}))
        patience = self._patience if patience is None else patience
        found, until = [], time.monotonic() + patience
        for process in range(jax.process_count()):
            left = max(1, round(1000 * (until - time.monotonic())))
            try:
                text = store.blocking_key_value_get(f"{key}/{process}", left)
            except Exception as error:
                raise UserError(
                    f"process {process} did not come to {what!r} within {patience:.0f} s; see its log"
                ) from error
            shown = json.loads(text)
            if shown["what"] == FAILED:
                raise UserError(f"process {process} failed: {shown['value']}")
            if shown["what"] != what:
                raise UserError(f"process {process} is at {shown['what']!r}, this one at {what!r}: restart all")
            found.append(shown["value"])
        return found

    def same(self, what: str, value: Any, hint: str) -> None:
        """UserError, on all processes alike, unless all show the same JSON value."""
        values = self.gather(what, value)
        for process, other in enumerate(values):
            if other != values[0]:
                raise UserError(f"{what} differs: process 0 has {values[0]}, process {process} has {other}; {hint}")

    def fail(self, error: Exception) -> None:
        """Tell the others, who are on their way to the next place, that this process will not come."""
        store = client()
        if store is not None and isinstance(error, UserError):
            key = f"mvjax/{self._places + 1}/{jax.process_index()}"
            store.key_value_set(key, json.dumps({"what": FAILED, "value": str(error)}))


FAILED = "failed"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what is computed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def digest(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Heartbeat:
    """While entered, tells the other processes that this one lives, and ends this one when another is lost.

    A collective operation waits for ever for a process that is gone; this is a thread that does not take part. The end
    is the process's own, with EXIT_AGAIN: a launcher starts all of them again, from the newest checkpoint.
    """

    def __init__(self, say=print, *, beat: float = BEAT, silence: float = SILENCE):
        self._say, self._beat, self._silence = say, beat, silence
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        if client() is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._beat)

    def _run(self) -> None:
        store, mine, count = client(), jax.process_index(), 0
        assert store is not None
        seen = {process: (None, time.monotonic()) for process in range(jax.process_count()) if process != mine}
        while not self._stop.wait(self._beat):
            count += 1
            try:
                store.key_value_set(f"mvjax/alive/{mine}", str(count), allow_overwrite=True)
                shown = {key.rsplit("/", 1)[-1]: value for key, value in store.key_value_dir_get("mvjax/alive/")}
            except Exception:  # The store lives in process 0.
                shown = {}
            now = time.monotonic()
            for process, (value, since) in seen.items():
                fresh = shown.get(str(process), value)
                seen[process] = (fresh, now) if fresh != value else (value, since)
                if now - seen[process][1] > self._silence and not self._stop.is_set():
                    self._say(
                        f"error: process {process} has not answered for {self._silence:.0f} s and counts as lost; "
                        "start again: the run resumes from its newest checkpoint"
                    )
                    sys.stdout.flush()
                    os._exit(EXIT_AGAIN)
