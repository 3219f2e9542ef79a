"""The parts that a store is built from: pieces of the files, encoded by themselves.

No more than one record is in memory at a time, beside the numbers that go into the index.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from mvjax.data import codec
from mvjax.data.encode import FORMS, encode_record
from mvjax.data.readers import DataFile, Span
from mvjax.data.records import Record
from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.language import TranscriptError
from mvjax.tokenizers.tokenizer import Tokenizer

PART_BYTES = 1 << 20
"""Least size of a part, in bytes of the file."""
MAX_PARTS = 256
"""Parts are larger where there would be more of one file: a run keeps each part that it reads open."""
WRITER_OPTIONS = "group_size:1,zstd:1"
"""One entry a chunk, since they are read at random."""
NUMBERS = ("length_NF", "prompt_NF", "critical_NF", "depth_NF")
"""What the index says of each form of a record."""


@dataclass(frozen=True)
class Part:
    """A piece of a file."""

    number: int
    """Its number among all parts."""
    file: int
    """Number of the file."""
    source: DataFile
    """The file."""
    span: Span
    """The piece."""

    @property
    def name(self) -> str:
        """Name of its ArrayRecord file."""
        return f"part-{self.number:05}.arrayrecord"

    @property
    def index_name(self) -> str:
        """Name of its index: there once the part is finished."""
        return f"part-{self.number:05}.npz"

    def records(self) -> Iterator[Record | str | None]:
        """The record of each of its rows; in place of a row that is none, the reason; None for an empty line."""
        return self.source.records(self.span)


def divide(files: Sequence[DataFile]) -> list[Part]:
    """The parts of the files: a function of their sizes, so an interrupted build finds the same ones again.

    Raises:
      UserError: a file cannot be read, or there are too many.
    """
    if len(files) > MAX_PARTS:
        raise UserError(f"data: {len(files)} files, {MAX_PARTS} can be used; join some of them")
    total = sum(file.n_bytes() for file in files)
    size = max(PART_BYTES, -(-total // MAX_PARTS))
    spans = [(number, span) for number, file in enumerate(files) for span in file.spans(size)]
    return [Part(number, file, files[file], span) for number, (file, span) in enumerate(spans)]


def encode_part(part: Part, tokenizer: Tokenizer, directory: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Encode the records of a part into `directory`; nothing is left there where `stopped` turns true.

    Raises:
      KeyboardInterrupt: stopped.
    """
    tables = tokenizer.tables()
    rows, lines, names, faults, number = [], [], [], [], 0
    with atomic_path(directory / part.name) as temporary, _writer(temporary) as writer:
        for number, record in enumerate(part.records(), 1):
            if stopped():
                raise KeyboardInterrupt
            if record is None:
                continue
            if isinstance(record, str):
                faults.append((number, record))
                continue
            try:
                examples = [encode_record(tokenizer, record, form, tables=tables) for form in FORMS]
            except TranscriptError as error:
                faults.append((number, str(error)))
                continue
            except UserError as error:
                faults.append((number, f"{record.id}: {error}"))
                continue
            for example in examples:
                writer.write(codec.to_bytes(example))
            layouts = [example.layout for example in examples]
            rows.append([(len(x.segment), x.prompt_length, x.critical_path, x.depth) for x in layouts])
            lines.append(number)
            names.append(record.id.encode("utf-8", "surrogatepass"))
    numbers_NFC = np.array(rows, np.int32).reshape(len(rows), len(FORMS), len(NUMBERS))
    columns: dict[str, Any] = {name: numbers_NFC[:, :, column] for column, name in enumerate(NUMBERS)}
    with atomic_path(directory / part.index_name) as temporary:
        np.savez(
            temporary,
            **columns,
            line_N=np.array(lines, np.int64),
            name_length_N=np.array([len(name) for name in names], np.int32),
            names=np.frombuffer(b"".join(names), np.uint8),
            faults=np.frombuffer(json.dumps(faults).encode(), np.uint8),
            lines=number,
        )


@contextlib.contextmanager
def _writer(path: Path) -> Generator[ArrayRecordWriter]:
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    try:
        yield writer
    finally:
        writer.close()
