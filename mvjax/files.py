"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path

DEFAULT_MODEL = Path("downloads/SmolLM2-135M-Instruct.Q4_1.gguf")
"""Weights that commands use where none are named; `make model` fetches them."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Generator[Path]:
    """Yield a temporary name in the directory of `path`; what is written there takes the place of `path` at the end.

    The temporary name keeps the suffix of `path`. Its contents reach the disk before the rename. If the body raises
    anything (a full disk, Ctrl-C), the temporary file is removed and `path` stays as it was. Missing parent directories
    are made; a symbolic link is followed, not replaced. Raises `FileNotFoundError` if the body wrote no file.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    flush(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Generator[Path]:
    """Yield a new empty sibling directory of `path`; at the end it takes the place of `path`, whole.

    What `path` held before is deleted only once the new directory is in its place: the caller decides whether it
    may go. If the body raises anything, the new directory is removed and the old one stays. Every file reaches the disk
    before the rename. Only a crash of the machine between the two renames can leave the old directory under the name
    `.NAME.XXXXXXXX.old` beside an absent `path`.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    temporary, old = path.with_name(f".{path.name}.{token}.new"), path.with_name(f".{path.name}.{token}.old")
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                flush(Path(folder, name))
            flush(Path(folder))
        swap(temporary, path, old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def swap(new: Path, path: Path, old: Path) -> None:
    """Move `path`, where there is one, to `old` and `new` to `path`; put `path` back if the second move fails."""
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise


def flush(path: Path) -> None:
    """Wait until a file or directory has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
