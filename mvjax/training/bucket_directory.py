"""The directory of a run in a bucket: leased by one launch, its small files kept on this host and mirrored.

Checkpoints go to the bucket directly. Each process has a directory of its own in the cache; process 0 begins with what
the bucket has. What a save needs is in the bucket before it: the metrics of all steps up to its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import jax

from mvjax.errors import UserError
from mvjax.storage import Lease, LeaseLost, Mirror, StoragePath, cache_directory, check_bucket
from mvjax.training.checkpoints import CHECKPOINTS
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import HostSync, is_first
from mvjax.training.run_config import CONFIG, check_unchanged, write_config

LEASE, START, MODEL = "lease.json", ".start", "model"
QUICK = 5.0
"""Seconds that training waits for the server at a save that can be made later."""
AGAIN, PAUSE = 10.0, 1.0
"""Seconds from one attempt at such a save to the next, and of one that cannot be made later."""


class StorageAway(UserError):
    """The server was away for longer than the run may go without a checkpoint; the last good one is there."""


class BucketPlace:
    """Where a run of a bucket is kept (`run_place.RunPlace`)."""

    def __init__(self, remote: StoragePath, directory: Path, lease: Lease | None, mirror: Mirror, sync: HostSync):
        self.directory, self.checkpoints, self.results = directory, remote / CHECKPOINTS, remote
        self._remote, self._lease, self._mirror, self._sync = remote, lease, mirror, sync
        self._since: float | None = None
        self._tried = 0.0

    def ready(self, insist: bool) -> bool:
        """Whether the lease is held and all files are mirrored, so that a checkpoint may be written.

        Raises:
            LeaseLost: another process trains the run by now.
            StorageAway: the server was away for longer than the remote path's patience.
        """
        patience = self._remote.patience + 60.0
        state, text = self._sync.gather("the bucket", self._try(insist) if is_first() else None, patience=patience)[0]
        if state == "lost":
            raise LeaseLost(text)
        if state == "gone":
            raise StorageAway(text)
        return state == "ready"

    def _try(self, insist: bool) -> tuple[str, str]:
        if not insist and self._since is not None and time.monotonic() - self._tried < AGAIN:
            return "away", ""
        while True:
            try:
                if self._lease is not None:
                    self._lease.check()
                self._mirror.push(QUICK)
            except LeaseLost as error:
                return "lost", str(error)
            except UserError as error:
                if (away := self._note(error)) is not None:
                    return "gone", str(away)
                if not insist:
                    return "away", ""
                time.sleep(PAUSE)
            else:
                self._since = None
                return "ready", ""

    def _note(self, error: Exception) -> StorageAway | None:
        """The server was found away; an error where that has lasted too long."""
        now = self._tried = time.monotonic()
        if self._since is None:
            self._since = now
            print(
                f"warning: {self._remote}: no checkpoint can be written now ({error}); trying for another "
                f"{self._remote.patience:.0f} s",
                flush=True,
            )
        if now - self._since < self._remote.patience:
            return None
        return StorageAway(
            f"{self._remote}: no checkpoint could be written for {now - self._since:.0f} s ({error}); the last good "
            "one is kept, the same command resumes it"
        )

    def failed(self, error: Exception) -> None:
        """A checkpoint could not be written: returns while another attempt may be made, else raises `StorageAway`.

        Of several processes some may have failed and others not: they start again.
        """
        away = self._note(error)
        if away is not None or jax.process_count() > 1:
            raise away or StorageAway(str(error))

    def publish(self, path: Path | StoragePath) -> str:
        """Bring a file of the run's directory to the bucket; a model is there. Returns its address."""
        if is_first():
            self._mirror.push(self._remote.patience)
        self._sync.gather("the result in the bucket", None, patience=self._remote.patience + 3600.0)
        return str(path if isinstance(path, StoragePath) else self._remote / path.name)


@contextlib.contextmanager
def bucket_directory(
    remote: StoragePath, config: TrainConfig, restart: bool, sync: HostSync, origins: Mapping[str, str] | None = None
) -> Generator[BucketPlace]:
    """Take the directory `remote` for a configuration's run, and give it back at the end.

    Raises:
        UserError: it cannot be reached or written, is something else's, or another process trains the run.
    """
    directory, token = cache_of(remote), None
    mirror = Mirror(directory, remote, wanted=is_mirrored)
    with contextlib.ExitStack() as stack:
        lease = None
        if is_first():
            lease = take(remote, config, restart, stack)
            directory.mkdir(parents=True, exist_ok=True)
            mirror.pull()
            write_config(directory, config, origins)
            mirror.push()
            token = secrets.token_hex(8)
            (remote / START).write_text(token)
        else:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        token = sync.gather("the run's directory", token)[0]
        seen = sync.gather("what hosts see", (remote / START).read_text())
        if blind := [process for process, shown in enumerate(seen) if shown != token]:
            raise UserError(f"{remote}: processes {blind} see another bucket than process 0")
        patient = remote.patient(config.output.patience)
        stack.enter_context(mirror)
        try:
            yield BucketPlace(patient, directory, lease, mirror, sync)
        except LeaseLost:
            raise  # what is there now is another's
        except BaseException:
            with contextlib.suppress(UserError, OSError):  # the first error counts
                mirror.push(QUICK)
            raise
        mirror.push(config.output.patience)


def take(remote: StoragePath, config: TrainConfig, restart: bool, stack: contextlib.ExitStack) -> Lease:
    """What process 0 does: see that the bucket can be written and the directory is the run's, and lease it."""
    check_bucket(remote.parent)
    known = (remote / CONFIG).is_file()
    if not known and (other := next((name for name in remote.walk() if name not in (LEASE, START)), None)):
        raise UserError(f"{remote}: is not the directory of a run (it has {other}, no {CONFIG}); choose another name")
    launch = os.environ.get("MVJAX_LAUNCH", "")
    lease = stack.enter_context(Lease((remote / LEASE).patient(QUICK), str(remote), launch=launch))
    if restart:
        for child in remote.children():
            if child.name != LEASE:
                child.delete_tree()
                child.delete()
    elif known:
        check_unchanged(remote, config)
    return lease


def is_mirrored(name: str) -> bool:
    """Whether a file of the run's directory is one of those that are kept here, too."""
    first = name.partition("/")[0]
    return first not in (CHECKPOINTS, MODEL, LEASE) and not first.startswith("damaged-")


def cache_of(remote: StoragePath) -> Path:
    """This process's directory for a run of a bucket."""
    digest = hashlib.sha256(str(remote).encode()).hexdigest()[:16]
    return cache_directory() / "runs" / f"{remote.name}-{digest}" / f"process-{jax.process_index()}"
