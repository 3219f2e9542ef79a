"""Encoded records on disk: tokenised and laid out once, in both forms, read at random from then on.

A store is a directory named by the fingerprint of what it was made from. It holds

    part-00000.arrayrecord ...   the examples of each record, one after the other in the order of FORMS (`codec`)
    index.npz                    lengths, nesting and names of the records: all that packing needs
    faults.jsonl                 the lines that are no usable record
    store.json                   files, counts, sizes; it is written last

`build` makes it; limits that depend on a run (row length, levels) are applied by `Corpus`, so one store serves many.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from mvjax.data import codec
from mvjax.data.encode import FORMS, Example, Form
from mvjax.data.readers import DataFile
from mvjax.data.records import Fault, open_input
from mvjax.errors import UserError
from mvjax.storage import StoragePath, copy_tree
from mvjax.tokenizers.tokenizer import Tokenizer
from mvjax.version import __version__

INDEX, FAULTS, REPORT = "index.npz", "faults.jsonl", "store.json"

PROBE = (
    "Ten 10 3.14 1,000 0x1F (a+b)*c == d;  two  spaces\ttab\r\n\n\nÉté naïve Straße Ωμέγα Привет 你好世界 日本語 "
    "한국어 שלום مرحبا नमस्ते ไทย 👍🏽 don't I'LL we've ___ ### ... --> \\frac{1}{2} <b>x</b> https://a.b/c?d=e&f=%20 "
    "CamelCase snake_case SHOUTING antidisestablishmentarianism\u00a0\u200b\u2028end"
)
"""Text on which tokenizers that cut differently are likely to differ."""


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of N records without reading their tokens. Axis F: the forms, in the order of FORMS."""

    length_NF: Int32[np.ndarray, "N F"]
    """Tokens."""
    prompt_NF: Int32[np.ndarray, "N F"]
    """Tokens of the prompt."""
    critical_NF: Int32[np.ndarray, "N F"]
    """Length of the critical path: the positions after the prompt."""
    depth_NF: Int32[np.ndarray, "N F"]
    """Nesting levels in use."""
    file_N: Int32[np.ndarray, "N"]
    """Number of the file that the record comes from."""
    line_N: Int64[np.ndarray, "N"]
    """Its line there, from 1."""
    name_end_N: Int64[np.ndarray, "N"]
    """Where the record's id ends in `names`."""
    name_length_N: Int32[np.ndarray, "N"]
    """Bytes of the id."""
    names: UInt8[np.ndarray, "bytes"]
    """The ids as UTF-8."""

    def __len__(self) -> int:
        return len(self.length_NF)

    def name(self, record: int) -> str:
        """A record's id."""
        end = int(self.name_end_N[record])
        return self.names[end - int(self.name_length_N[record]) : end].tobytes().decode("utf-8", "surrogatepass")

    def take(self, records_M: Int[np.ndarray, "M"]) -> Index:
        """The index of some of the records."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Index(**{name: array if name == "names" else array[records_M] for name, array in arrays.items()})


@dataclass(frozen=True)
class Store:
    """An open store. Tokens are read when they are asked for."""

    path: Path
    """Its directory."""
    index: Index
    """What is known without reading tokens."""
    files: tuple[str, ...]
    """Names of the files that it was made from."""
    faulty: tuple[tuple[int, int, str], ...]
    """Number of the file, line and reason of what could not be encoded."""
    parts: tuple[tuple[str, int], ...]
    """The ArrayRecord files and how many records each has."""
    pad_id: int
    """Token that fills rows."""

    @property
    def fingerprint(self) -> str:
        """Equal where the files, the tokenizer and the version are."""
        return self.path.name

    def __len__(self) -> int:
        return len(self.index)

    def fault(self, file: int, line: int, reason: str) -> Fault:
        """A fault, named by its place."""
        return Fault(f"{self.files[file]}:{line}", reason)

    @cached_property
    def _source(self) -> Any:
        # Not at the top: grain imports JAX, which processes that only encode can do without.
        import grain

        # Given how many records a part has, it is opened only when it is read; each has one entry for each form.
        paths = [f"{self.path / name}[0:{count * len(FORMS)}]" for name, count in self.parts if count]
        return grain.sources.ArrayRecordDataSource(paths)

    def examples(self, documents: Sequence[tuple[int, Form]]) -> list[Example]:
        """Records in one of their forms, laid out.

        Raises:
          UserError: the store is damaged.
        """
        try:
            entries = [self._source[record * len(FORMS) + FORMS.index(form)] for record, form in documents]
        except (RuntimeError, OSError) as error:
            raise damaged(self.path, error) from error
        return [
            codec.from_bytes(data, self.index.name(record), form)
            for data, (record, form) in zip(entries, documents, strict=True)
        ]


def store_path(files: Iterable[DataFile], tokenizer: Tokenizer, directory: str | Path) -> Path:
    """Where the store of these files and this tokenizer is in `directory`, built or not. Its name is a fingerprint
    of the files' contents and formats, the tokenizer (which has the control tags) and the version of what is stored.

    Raises:
      UserError: a file cannot be read, or the directory is no path of a file system.
    """
    if "://" in str(directory):
        raise UserError(f"{directory}: encoded records need a directory of a file system; name a local or shared one")
    digest = hashlib.sha256(f"{codec.FORMAT} {__version__} ".encode())
    digest.update(_describe(tokenizer))
    for file in files:
        with open_input(file.path) as contents:
            facts = (
                file.name,
                file.kind,
                file.format,
                file.suffix,
                hashlib.file_digest(contents, "sha256").hexdigest(),
            )
        digest.update(f"\n{facts}".encode())
    return Path(directory) / digest.hexdigest()[:32]


def _describe(tokenizer: Tokenizer) -> bytes:
    """All that decides how a tokenizer encodes; two that cut text differently differ on PROBE."""
    facts = [
        *(tokenizer.fingerprint, tokenizer.settings.to_config(), tokenizer.backend.settings()),
        *([dataclasses.astuple(token) for token in tokenizer.backend.controls], tokenizer.encode(PROBE)),
    ]
    return json.dumps(facts, sort_keys=True).encode()


def is_whole(path: Path) -> bool:
    """Whether a finished store is there, each file with the size that it was written with."""
    try:
        sizes: Mapping[str, int] = json.loads((path / REPORT).read_text(encoding="utf-8"))["sizes"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def push_store(path: Path, place: StoragePath) -> None:
    """Send a finished store to a bucket, unless it is there; what tells that it is complete comes last. Nothing to do
    for a local place."""
    if place.local is None and not (place / REPORT).is_file():
        copy_tree(StoragePath(str(path)), place, names=stored_names(path), last=lambda name: name == REPORT)


def pull_store(place: StoragePath, path: Path) -> None:
    """Fetch a finished store from a bucket, if it has it and it is not here yet. Nothing to do for a local place."""
    if place.local is None and not is_whole(path) and (place / REPORT).is_file():
        copy_tree(place, StoragePath(str(path)), last=lambda name: name == REPORT)


def stored_names(path: Path) -> list[str]:
    """The files of a store."""
    return [*json.loads((path / REPORT).read_text(encoding="utf-8"))["sizes"], REPORT]


def open_store(path: Path, *, patience: float = 0.0) -> Store:
    """Open the store that `build_store` made.

    Args:
      path: its directory, from `store_path`.
      patience: seconds to wait for it to appear: shared file systems may show it to other hosts some time later.
    Raises:
      UserError: there is none, as where this host sees other data than the one that built it; or it is damaged.
    """
    deadline = time.monotonic() + patience
    while not is_whole(path):
        if time.monotonic() >= deadline:
            raise UserError(
                f"{path}: no encoded records here; all hosts must see the same data, the same tokenizer and the same "
                "directory"
            )
        time.sleep(min(1.0, patience))
    try:
        report = json.loads((path / REPORT).read_text(encoding="utf-8"))
        with np.load(path / INDEX) as arrays:
            index = Index(**{field.name: arrays[field.name] for field in dataclasses.fields(Index)})
        faults = [json.loads(line) for line in (path / FAULTS).read_text(encoding="utf-8").splitlines()]
        faulty = tuple((fault["file"], fault["line"], fault["reason"]) for fault in faults)
        return Store(path, index, tuple(report["files"]), faulty, tuple(map(tuple, report["parts"])), report["pad_id"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a store that cannot be read."""
    return UserError(f"{path}: cannot be read ({error}); delete it, the next start makes it anew")
