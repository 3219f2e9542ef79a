"""A local directory that a bucket has a copy of: fetched at the start, sent again as files change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from mvjax.errors import UserError
from mvjax.storage.path import StoragePath
from mvjax.storage.transfer import copy_file, copy_tree

EVERY = 60.0
"""Seconds between two looks at what has changed."""

log = logging.getLogger(__name__)


class Mirror:
    """Keeps `remote` like `local`; while entered, every minute and whenever `push` is called.

    Args:
        wanted: whether a file, by its relative name, is mirrored; hidden ones, as half-written files are, never are.
    """

    def __init__(
        self,
        local: Path,
        remote: StoragePath,
        *,
        wanted: Callable[[str], bool] = lambda name: True,
        every: float = EVERY,
    ):
        self._local, self._remote, self._every = local, remote, every
        self._wanted = lambda name: wanted(name) and not any(part.startswith(".") for part in name.split("/"))
        self._sent: dict[str, tuple[int, int]] = {}
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def pull(self) -> None:
        """Make the local directory like the bucket's: what is only here goes, for the bucket decides."""
        names = [name for name in self._remote.walk() if self._wanted(name)]
        here = StoragePath(str(self._local))
        for name in {*here.walk()} - {*names}:
            (here / name).delete()
        copy_tree(self._remote, here, names=names, last=lambda name: True)
        self._sent = {name: stamp(self._local / name) for name in names}

    def push(self, patience: float | None = None) -> None:
        """Send every file that has changed since it was sent. Errors as `StoragePath` has them; what was not sent is
        sent next time.

        patience: seconds that the server may be away; None: the usual ones of `remote`.
        """
        remote = self._remote if patience is None else self._remote.patient(patience)
        with self._one:
            for name in StoragePath(str(self._local)).walk():
                if not self._wanted(name):
                    continue
                try:
                    now = stamp(self._local / name)
                    if self._sent.get(name) != now:
                        copy_file(StoragePath(str(self._local / name)), remote / name)
                except FileNotFoundError:  # it was removed just now
                    continue
                self._sent[name] = now

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._remote.patience)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.push()
            except (UserError, OSError) as error:  # the next save insists
                log.warning("%s", error)


def stamp(path: Path) -> tuple[int, int]:
    """What changes whenever a file is written: its time and its size."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size
