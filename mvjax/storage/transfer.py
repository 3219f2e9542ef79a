"""Copies of files and trees between places, file by file; what is there already is left out, so a copy resumes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from mvjax.files import atomic_path
from mvjax.storage.path import StoragePath

CHUNK = 64 * 2**20
"""Bytes of a large file that are read at a time; smaller files are read as a whole."""
AT_ONCE = 8
"""Files that are copied at the same time; of those that are sent to a bucket and larger than a chunk, one."""

Progress = Callable[[str, int], None]
"""Called with the name and the bytes of each file when it is in its place."""


def copy_file(source: StoragePath, target: StoragePath) -> int:
    """Copy a file, which appears whole or not at all; returns its bytes. A large one is read in chunks; one that is
    sent to a bucket is in memory as a whole."""
    if target.local is None:
        data = source.read_bytes()
        target.write_bytes(data)
        return len(data)
    with atomic_path(target.local) as temporary, temporary.open("wb") as file:
        size = source.size() if source.has_byte(CHUNK - 1) else None
        if size is None:
            return file.write(source.read_bytes())
        for start in range(0, size, CHUNK):
            file.write(source.read_bytes(start, min(start + CHUNK, size)))
    return size


def copy_tree(
    source: StoragePath,
    target: StoragePath,
    *,
    names: Iterable[str] | None = None,
    last: Callable[[str], bool] = lambda name: False,
    progress: Progress | None = None,
) -> None:
    """Copy the files of a directory; one that is there with as many bytes is left out, but not those for the end.

    Args:
        names: of the files, relative; None: all.
        last: whether a file comes after all others, as what tells that a directory is complete.
    """
    names = [*(source.walk() if names is None else names)]
    in_memory = threading.Lock()

    def copy(name: str) -> int:
        here, there = source / name, target / name
        known = here if here.local is not None else there
        if not last(name) and known.is_file() and (there if known is here else here).has_size(known.size()):
            return known.size()
        large = there.local is None and here.has_byte(CHUNK)
        with in_memory if large else contextlib.nullcontext():
            return copy_file(here, there)

    for group in ([name for name in names if not last(name)], [name for name in names if last(name)]):
        with ThreadPoolExecutor(AT_ONCE if len(group) > 1 else 1) as pool:
            for name, size in zip(group, pool.map(copy, group), strict=True):
                if progress is not None:
                    progress(name, size)
