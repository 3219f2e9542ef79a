"""Files of a bucket in this machine's cache: a directory for each state of them, which never changes.

A model's directory there has the small files only; its `LINK` says where the weights are, which are read from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mvjax.files import atomic_path
from mvjax.storage.path import StoragePath
from mvjax.storage.transfer import AT_ONCE, copy_file

LINK = ".weights"
"""The file of a directory that has the address of its weights."""

T = TypeVar("T")


def cache_directory() -> Path:
    """Of files that can be fetched or made again: MVJAX_CACHE, else `mvjax` in the user's cache directory."""
    if named := os.environ.get("MVJAX_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvjax"


def snapshot(place: StoragePath, names: Sequence[str], cache: Path, *, link: bool = False) -> Path:
    """A local directory with some files of a bucket, as they are now; its last part is the name of `place`.

    Args:
        names: relative to `place`; `NoSuchObject` where one is absent.
        cache: directory that it is kept in; who asks again finds it there.
        link: whether the weights are read from `place` itself, see `linked`.
    """
    versions = in_parallel(lambda name: (place / name).version(), names)
    facts = json.dumps([str(place), link, *sorted(zip(names, versions, strict=True))])
    folder = (
        cache / "snapshots" / hashlib.sha256(facts.encode()).hexdigest()[:20] / (place.name or place.bucket or "root")
    )
    # The memory of two processes may hold different objects under equal versions.
    wanted = [name for name in names if place.scheme == "memory" or not (folder / name).exists()]
    in_parallel(lambda name: copy_file(place / name, StoragePath(str(folder / name))), wanted)
    if link:
        with atomic_path(folder / LINK) as temporary:
            temporary.write_text(str(place), encoding="utf-8")
    return folder


def linked(folder: Path) -> StoragePath:
    """Where the weights of a local directory are: in itself, or where its `LINK` says."""
    link = folder / LINK
    return StoragePath(link.read_text(encoding="utf-8") if link.is_file() else str(folder))


def in_parallel(function: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """The function of each name, some at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*pool.map(function, names)]
