"""The directory of a run: made or found, locked, seen by all hosts, and of this configuration."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.storage import StoragePath
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import HostSync, is_first
from mvjax.training.run_config import CONFIG, check_unchanged, write_config

TOKEN, LOCK = ".start", ".lock"


@contextlib.contextmanager
def run_directory(
    config: TrainConfig, restart: bool, sync: HostSync, origins: Mapping[str, str] | None = None
) -> Generator[Path, None, None]:
    """Make or find the run's directory, DIRECTORY/NAME, hold its lock, and see that it belongs to this configuration.

    Process 0 does; the others see that they have the same directory before them.

    Raises:
        UserError: it is something else's, another process trains the run, or not all hosts see it.
    """
    directory, token = Path(config.output.directory) / config.name, None
    with contextlib.ExitStack() as stack:
        if is_first():
            take_directory(directory, config, restart, stack, origins)
            token = secrets.token_hex(8)
            (directory / TOKEN).write_text(token, encoding="utf-8")
        token = sync.gather("the run's directory", token)[0]
        try:
            seen = (directory / TOKEN).read_text(encoding="utf-8")
        except OSError:
            seen = None
        blind = [process for process, shown in enumerate(sync.gather("what hosts see", seen)) if shown != token]
        if blind:
            raise UserError(
                f"{directory}: processes {blind} do not see the directory that process 0 has made there; put "
                "output.directory on a file system that all hosts share"
            )
        yield directory


def take_directory(
    directory: Path,
    config: TrainConfig,
    restart: bool,
    stack: contextlib.ExitStack,
    origins: Mapping[str, str] | None = None,
) -> None:
    """What process 0 does."""
    known = (directory / CONFIG).exists()
    if directory.exists() and any(directory.iterdir()) and not known:
        raise UserError(f"{directory}: is not the directory of a run (no {CONFIG}); choose another name")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be made ({error.strerror}); choose another --output.directory") from error
    stack.enter_context(locked(directory / LOCK, directory))
    if restart:
        for path in directory.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif known:
        check_unchanged(StoragePath(str(directory)), config)
    write_config(directory, config, origins)


@contextlib.contextmanager
def locked(path: Path, directory: Path) -> Generator[None, None, None]:
    """Hold a run's lock; UserError where another process holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{directory}: another process is training this run") from error
        yield


def check_origin(directory: Path, record: dict[str, Any], belongs_to: dict[str, Any]) -> None:
    """UserError where a checkpoint was made with another tokenizer or other data."""
    for what, value in belongs_to.items():
        if record["belongs_to"].get(what, value) != value:
            raise UserError(
                f"{directory}: its checkpoints were made with another {what} ({record['belongs_to'][what]}, now "
                f"{value}); put it back, choose another --name, or begin again with --restart"
            )
