"""Metrics sent to Weights & Biases or Trackio, from a thread of its own: whatever happens there, the run goes on."""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mvjax.files import atomic_path
from mvjax.training.config import TrainConfig, to_dict

FILE = "tracker.json"
ROOM = 10_000
"""Lines that wait to be sent at most; later ones are left out."""
PATIENCE = 30.0
"""Seconds that the end of a run waits for what is still to be sent."""


class Tracker:
    """One more writer of metrics. Where the service or its package is absent, it says so once and sends no more.

    The project is that of WANDB_PROJECT or TRACKIO_PROJECT, else "mvjax". A resumed run goes on under the same id.

    Args:
        kind: "wandb" or "trackio".
        config: of the run.
        directory: of the run; keeps the id.
        sent: the last step that an earlier start has sent.
        say: prints a line.
    """

    def __init__(self, kind: str, config: TrainConfig, directory: Path, sent: int, say: Callable[[str], None]):
        self._kind, self._config, self._directory, self._sent, self._say = kind, config, directory, sent, say
        self._lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue(ROOM)
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._work, name=kind, daemon=True)
        self._thread.start()

    def write(self, line: Mapping[str, Any]) -> None:
        """Send the finite numbers of a line, some time later."""
        if not self._gone.is_set() and line["step"] > self._sent:
            try:
                self._lines.put_nowait(line)
            except queue.Full:
                self._end(f"{ROOM:,} lines wait to be sent")

    def close(self) -> None:
        """Send what is left, as far as that is done in time."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(PATIENCE)
        if self._thread.is_alive() and not self._gone.is_set():
            self._end(f"not all was sent within {PATIENCE:.0f} s")

    def _work(self) -> None:
        try:
            run = begin(self._kind, self._config, self._directory, run_id(self._kind, self._directory))
            while (line := self._lines.get()) is not None:
                run.log(numbers_of(line), step=line["step"])
            run.finish()
        except ImportError as error:
            self._end(f"{error}; pip install 'mvjax[{self._kind}]'")
        except BaseException as error:  # libraries of services also raise SystemExit
            self._end(" ".join(str(error).split())[:200] or type(error).__name__)

    def _end(self, reason: str) -> None:
        self._gone.set()
        self._say(f"warning: {self._kind}: {reason}; the run goes on without it, metrics.jsonl has all")


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """What a service draws over the steps."""
    numbers = {name: x for name, x in line.items() if isinstance(x, int | float) and name != "step"}
    return {name: x for name, x in numbers.items() if math.isfinite(x)}


def run_id(kind: str, directory: Path) -> str:
    """The run's id at a service, the same for every start."""
    path = directory / FILE
    ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kind not in ids:
        ids[kind] = secrets.token_hex(4)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return ids[kind]


def begin(kind: str, config: TrainConfig, directory: Path, number: str) -> Any:
    """A run of a service, new or resumed, with `log(numbers, step=...)` and `finish()`. Asks nothing on a terminal."""
    service = importlib.import_module(kind)
    project = os.environ.get(f"{kind.upper()}_PROJECT") or "mvjax"
    if kind == "trackio":
        # Its runs are known by their names alone.
        return service.init(project=project, name=f"{config.name}-{number}", config=to_dict(config), resume="allow")
    settings = service.Settings(console="off", silent=True)
    if os.environ.get("WANDB_MODE", "online") == "online" and not service.login(prompt=False):
        raise RuntimeError("no key; use `wandb login`, or WANDB_MODE=offline")
    return service.init(
        project=project,
        name=config.name,
        id=number,
        resume="allow",
        dir=str(directory),
        config=to_dict(config),
        settings=settings,
    )
