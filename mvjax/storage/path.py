"""One path for local files and for objects in buckets.

    StoragePath("gs://bucket/runs/x")    Google Cloud Storage
    StoragePath("s3://bucket/runs/x")    Amazon S3, or what AWS_ENDPOINT_URL names
    StoragePath("memory://x")            this process's memory, for tests
    StoragePath("runs/x"), "file:///runs/x"

A bucket knows no directories: one is there while an object's name begins with it. An object appears whole or not at
all; a local file that is written here does, too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.storage.errors import Changed, CutShort, NoSuchObject
from mvjax.storage.kvstore import open_store, patiently

SCHEMES = ("gs", "s3", "memory", "file")
PATIENCE = 15.0
"""Seconds that a server may be away."""
LARGEST = 2**44
"""Bytes of an object at most."""
PROBES = 16
"""Requests at a time that look for the end of an object."""
PIECE, PIECES = 8 * 2**20, 8
"""Bytes of one request of `read_into`, and requests at a time."""


class Versioned(NamedTuple):
    """What an object held when it was read."""

    data: bytes | None
    """None: there was none."""
    generation: bytes
    """Names this version of it, or its absence."""


@dataclass(frozen=True, order=True)
class StoragePath:
    """A file, an object, or the directory that a name stands for. Nothing is opened before it is used.

    Raises `UserError` for an address that makes no sense. The methods raise `UserError` where a server refuses, a
    bucket is absent or nothing answers (`UnreachableError`), `OSError` for local files and for what is not there.
    """

    address: str
    """`scheme://bucket/name`, without "/" at its end, or a local path."""
    patience: float = field(default=PATIENCE, compare=False, repr=False)
    """Seconds that the server may be away during a call; `patient` changes it."""

    def __post_init__(self):
        text = os.fspath(self.address) if not isinstance(self.address, StoragePath) else self.address.address
        object.__setattr__(self, "address", normal(text))

    # ------------------------------------------------------------------------------------------------------------ Name

    @property
    def scheme(self) -> str:
        """gs, s3, memory or file."""
        return self.address.partition("://")[0] if "://" in self.address else "file"

    @property
    def local(self) -> Path | None:
        """The path in the file system; None: it is no local one."""
        return Path(self.address) if self.scheme == "file" else None

    @property
    def bucket(self) -> str:
        """The bucket's name; "" where there is none."""
        return self.address.partition("://")[2].partition("/")[0] if self.scheme in ("gs", "s3") else ""

    @property
    def key(self) -> str:
        """The name within the store, as TensorStore has it: of a local file, its absolute path without the "/"."""
        if self.scheme == "file":
            return os.path.abspath(self.address)[1:]
        rest = self.address.partition("://")[2]
        return rest.partition("/")[2] if self.bucket else rest

    @property
    def name(self) -> str:
        """The last part; "" for a whole bucket."""
        return Path(self.address).name if self.local else self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Of the name, with its "."."""
        return Path(self.name).suffix

    @property
    def parent(self) -> StoragePath:
        """What it lies in; a bucket lies in itself."""
        if self.local is not None:
            return self._like(str(self.local.parent))
        return self._like(self.address.rpartition("/")[0] if "/" in self.key else self._root)

    def __truediv__(self, name: str | os.PathLike[str]) -> StoragePath:
        """A file or directory in this one; `name` may have several parts and is relative."""
        name = os.fspath(name)
        if self.local is not None:
            return self._like(str(self.local / name))
        if name.startswith("/"):
            raise ValueError(f"{name!r} is not relative")
        return self._like(f"{self.address.rstrip('/')}/{name}" if self.key else f"{self._root}{name}")

    def __str__(self) -> str:
        return self.address

    def patient(self, seconds: float) -> StoragePath:
        """The same path, with another patience."""
        return StoragePath(self.address, seconds)

    @property
    def is_atomic(self) -> bool:
        """Whether of two conditional writes at most one is done. TensorStore's documentation warns that S3 and its
        imitations do not guarantee it."""
        return self.scheme != "s3"

    @property
    def _root(self) -> str:
        return f"{self.scheme}://{self.bucket}/" if self.bucket else f"{self.scheme}://"

    def _like(self, address: str) -> StoragePath:
        return StoragePath(address, self.patience)

    # --------------------------------------------------------------------------------------------------------- Reading

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`; None: to the end. `NoSuchObject` where there is nothing; `CutShort` where
        it ends before `stop`."""
        if self.local is not None:
            return read_local(self.local, start, stop)
        part = None if start == 0 and stop is None else slice(start, stop)
        if stop is not None and stop <= start:
            return b""
        try:
            result = self._call(lambda store: store.read(self.key, byte_range=part), (stop or start) - start)
        except IndexError as error:
            if stop is None:
                return b""  # it ends at `start` or before, as a file may
            raise cut_short(self.address) from error
        if result.state != "value":
            raise NoSuchObject(self.address)
        return result.value

    def read_into(self, out: memoryview, start: int) -> None:
        """Fill `out`, bytes, with what begins at `start`; of an object, by several requests at a time. Errors as of
        `read_bytes`."""
        if self.local is not None:
            with self.local.open("rb") as file:
                file.seek(start)
                if file.readinto(out) < len(out):
                    raise cut_short(str(self.local))
            return
        store = open_store(self.scheme, self.bucket)
        for first in range(0, len(out), PIECE * PIECES):
            begins = range(first, min(first + PIECE * PIECES, len(out)), PIECE)
            spans = [slice(begin, min(begin + PIECE, len(out))) for begin in begins]
            asks = at_once(
                partial(store.read, self.key, byte_range=slice(start + span.start, start + span.stop)) for span in spans
            )
            for span, ask in zip(spans, asks, strict=True):
                try:
                    result = patiently(ask, self.address, self.patience, span.stop - span.start)
                except IndexError as error:
                    raise cut_short(self.address) from error
                if result.state != "value":
                    raise NoSuchObject(self.address)
                out[span] = result.value

    def read_text(self) -> str:
        """The whole as UTF-8."""
        return self.read_bytes().decode("utf-8")

    def read_version(self) -> Versioned:
        """The whole, and the generation for a conditional write."""
        result = self._call(lambda store: store.read(self.key))
        return Versioned(result.value if result.state == "value" else None, result.stamp.generation)

    def version(self) -> str:
        """Names what a file or object holds now: another write, another version. `NoSuchObject` where there is
        nothing."""
        if self.local is not None:
            found = self.local.stat()
            return f"{found.st_mtime_ns}-{found.st_size}"
        result = self._call(lambda store: store.read(self.key, byte_range=NOTHING))
        if result.state != "value":
            raise NoSuchObject(self.address)
        return result.stamp.generation.hex()

    def exists(self) -> bool:
        """Whether there is a file or object of this name, or a directory."""
        return self.local.exists() if self.local is not None else self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is a file or an object of this name."""
        if self.local is not None:
            return self.local.is_file()
        return bool(self.key) and self._call(lambda store: store.read(self.key, byte_range=NOTHING)).state == "value"

    def is_dir(self) -> bool:
        """Whether there is something in it; an empty local directory counts."""
        return self.local.is_dir() if self.local is not None else next(self.walk(), None) is not None

    def size(self) -> int:
        """Bytes of a file or object. TensorStore does not say: in a bucket some dozen requests look for the end."""
        if self.local is not None:
            return self.local.stat().st_size
        if not self.is_file():
            raise NoSuchObject(self.address)
        below, above = -1, LARGEST  # the last byte that is there, and one that is not
        probes = [2**power for power in range(0, LARGEST.bit_length() - 1, 3)]
        while below + 1 < above:
            for place, there in zip(probes, self._have(probes), strict=True):
                below, above = (max(below, place), above) if there else (below, min(above, place))
            step = max(1, (above - below) // (PROBES + 1))
            probes = [*range(below + step, above, step)][:PROBES]
        return above

    def has_size(self, size: int) -> bool:
        """Whether there is a file or object of just this many bytes; two requests."""
        if self.local is not None:
            return self.local.is_file() and self.local.stat().st_size == size
        return self.is_file() and self._have([size - 1, size]) == [True, False]

    def has_byte(self, place: int) -> bool:
        """Whether there is a file or object of more than `place` bytes; one or two requests."""
        if self.local is not None:
            return self.local.is_file() and self.local.stat().st_size > place
        return self.is_file() and self._have([place]) == [True]

    def _have(self, places: list[int]) -> list[bool]:
        """Whether an object that is there has a byte at each of some places, rising; at -1 it always has."""
        store = open_store(self.scheme, self.bucket)
        asks = at_once(
            partial(store.read, self.key, byte_range=slice(place, place + 1)) for place in places if place >= 0
        )
        found = [True] * sum(place < 0 for place in places)
        for ask in asks:
            try:
                patiently(ask, self.address, self.patience)
                found.append(True)
            except IndexError:
                found.append(False)
        return found

    # --------------------------------------------------------------------------------------------------------- Listing

    def walk(self) -> Iterator[str]:
        """Names of all files in it, at any depth, relative to it, sorted."""
        if self.local is not None:
            files = (Path(folder, name) for folder, _, names in os.walk(self.local) for name in names)
            yield from sorted(file.relative_to(self.local).as_posix() for file in files)
            return
        import tensorstore

        prefix = f"{self.key}/" if self.key else ""
        inside = tensorstore.KvStore.KeyRange(prefix, f"{prefix[:-1]}0" if prefix else "")
        found = self._call(lambda store: store.list(inside, strip_prefix_length=len(prefix.encode())))
        yield from sorted(name.decode() for name in found if name and not name.endswith(b"/"))

    def files(self) -> list[str]:
        """Names of the files directly in it, sorted."""
        if self.local is not None:
            return sorted(entry.name for entry in self.local.iterdir() if entry.is_file()) if self.is_dir() else []
        return [name for name in self.walk() if "/" not in name]

    def children(self) -> list[StoragePath]:
        """The files and directories directly in it, sorted."""
        if self.local is not None:
            names = [entry.name for entry in self.local.iterdir()] if self.local.is_dir() else []
        else:
            names = {name.partition("/")[0] for name in self.walk()}
        return [self / name for name in sorted(names)]

    # --------------------------------------------------------------------------------------------------------- Writing

    def write_bytes(self, data: bytes, *, if_generation: bytes | None = None) -> bytes:
        """Write the whole, which appears whole or not at all; missing local directories are made.

        Args:
            if_generation: write only while the object is what `read_version` found.
        Returns the generation that was written; b"" for an unconditional write of a local file.
        Raises:
            Changed: it is another by now, and was left so.
        """
        if self.local is not None and if_generation is None:
            with atomic_path(self.local) as temporary:
                temporary.write_bytes(data)
            return b""
        if self.local is not None:
            self.local.parent.mkdir(parents=True, exist_ok=True)
        generation = self._call(lambda store: store.write(self.key, data, if_equal=if_generation), len(data)).generation
        if if_generation is not None and not generation:
            raise Changed(self.address)
        return generation

    def write_text(self, text: str) -> None:
        """Write the whole as UTF-8."""
        self.write_bytes(text.encode("utf-8"))

    def delete(self) -> None:
        """Delete a file or an object; nothing where there is none."""
        if self.local is not None:
            self.local.unlink(missing_ok=True)
        else:
            self._call(lambda store: store.write(self.key, None))

    def delete_tree(self) -> None:
        """Delete a directory with all that is in it; nothing where there is none."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=not self.local.exists())
            return
        store = open_store(self.scheme, self.bucket)
        for ask in at_once(partial(store.write, (self / name).key, None) for name in self.walk()):
            patiently(ask, self.address, self.patience)

    def _call(self, begin: Callable[[Any], Any], n_bytes: int = 0) -> Any:
        store = open_store(self.scheme, self.bucket)
        return patiently(lambda: begin(store), self.address, self.patience, n_bytes)


NOTHING = slice(0, 0)
"""A range of bytes whose reading tells only whether an object is there."""


def at_once(requests: Iterable[Callable[[], Any]]) -> list[Callable[[], Any]]:
    """The same requests, begun together; a second call of one makes it again."""

    def remembered(request: Callable[[], Any]) -> Callable[[], Any]:
        begun = [request()]
        return lambda: begun.pop() if begun else request()

    return [remembered(request) for request in requests]


def normal(text: str) -> str:
    """An address in the one form that it has here; UserError for one that makes no sense."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return os.path.normpath(text) if text else "."
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise UserError(f"{text}: {scheme}:// is not a kind of storage that is known here; use {known} or a local path")
    if scheme == "file":
        if not rest.startswith("/"):
            raise UserError(f"{text}: a local address has three slashes, as in file:///home/me/runs")
        return os.path.normpath(rest)
    parts = [part for part in re.split("/+", rest) if part]
    if {".", ".."} & set(parts):
        raise UserError(f"{text}: an address has no parts . or ..; write out the name")
    if scheme != "memory" and (not parts or rest.startswith("/")):
        raise UserError(f"{text}: names no bucket; write {scheme}://BUCKET/NAME")
    return f"{scheme}://{'/'.join(parts)}" + ("/" if len(parts) == 1 and scheme != "memory" else "")


def read_local(path: Path, start: int, stop: int | None) -> bytes:
    """Bytes of a local file."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read() if stop is None else file.read(max(0, stop - start))
    if stop is not None and len(data) < stop - start:
        raise cut_short(str(path))
    return data


def cut_short(address: str) -> CutShort:
    """The error for a file that ends before what should be in it."""
    return CutShort(f"{address}: ends before the bytes that should be in it; it was cut short, fetch or write it anew")
