"""Where a run is kept: a directory of the file system, or one of a bucket with a local copy of its small files."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Protocol

from mvjax.storage import StoragePath, check_bucket
from mvjax.training.bucket_directory import bucket_directory
from mvjax.training.checkpoints import CHECKPOINTS
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import HostSync
from mvjax.training.run_directory import run_directory


class RunPlace(Protocol):
    """What the trainer wants of it; all processes call the same methods in the same order."""

    @property
    def directory(self) -> Path:
        """Of all that this process writes beside checkpoints; local."""

    @property
    def checkpoints(self) -> StoragePath:
        """Of the checkpoints."""

    @property
    def results(self) -> StoragePath:
        """Where the run's model is written to."""

    def ready(self, insist: bool) -> bool:
        """Whether a checkpoint can be written now; called before each. Where `insist`, it waits for that."""

    def failed(self, error: Exception) -> None:
        """A checkpoint could not be written; returns where another attempt may be made."""

    def publish(self, path: Path | StoragePath) -> str:
        """Bring a file of `directory` to where the run is kept; what is there stays. Returns its address."""


class LocalPlace:
    """A directory that all processes share."""

    def __init__(self, directory: Path):
        self.directory, self.results = directory, StoragePath(str(directory))
        self.checkpoints = self.results / CHECKPOINTS

    def ready(self, insist: bool) -> bool:
        return True

    def failed(self, error: Exception) -> None:
        raise error

    def publish(self, path: Path | StoragePath) -> str:
        return str(path)


@contextlib.contextmanager
def run_place(
    config: TrainConfig, restart: bool, sync: HostSync, origins: Mapping[str, str] | None = None
) -> Generator[RunPlace]:
    """The place of a configuration's run, taken: no other run of the same name writes there meanwhile.

    origins: kept in its config.json, where there are any.

    Raises:
        UserError: it is something else's, another process trains the run, or it cannot be reached or written.
    """
    output = StoragePath(config.output.directory)
    if output.local is None:
        with bucket_directory(output / config.name, config, restart, sync, origins) as place:
            yield place
    else:
        local = config.replace(output={"directory": str(output.local)})
        with run_directory(local, restart, sync, origins) as directory:
            yield LocalPlace(directory)


def check_place(config: TrainConfig) -> None:
    """UserError where a bucket that the run is to be kept in cannot be used: known before anything takes long."""
    output = StoragePath(config.output.directory)
    if output.local is None:
        check_bucket(output)
