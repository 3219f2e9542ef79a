"""Reading rows from a file of data: JSON lines, a JSON array, Parquet or Arrow.

A row is named by its file and its number in it, from 1 (for JSON lines: the line). Files are read in pieces, so that
several processes can share one, and no more than a few rows are in memory at a time.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mvjax.data.formats import parse_line, to_record
from mvjax.data.records import Record, open_input
from mvjax.errors import UserError

SUFFIXES = {".jsonl": "lines", ".ndjson": "lines", ".json": "array", ".parquet": "parquet", ".arrow": "arrow"}
"""Kind of a file by its suffix; files of any other suffix are JSON lines."""
CHUNK = 1 << 20
"""Characters of a JSON array that are read at a time."""
ROWS = 64
"""Rows of a table that are made into Python objects at a time."""
NO_PYARROW = "needs pyarrow: pip install 'mvjax[data]'"


class Span(NamedTuple):
    """A piece of a file that is read by itself."""

    start: int
    """First byte (JSON lines), row group (Parquet) or batch (Arrow)."""
    end: int
    """The one after the last."""
    n_bytes: int
    """About how many bytes of the file it is."""


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    path: Path
    """Where it is."""
    name: str
    """What messages call it."""
    kind: str
    """lines, array, parquet or arrow."""
    entry: int = 0
    """Number of the name, among those that the user gave, that led to it."""
    format: str = "records"
    """Format of its rows, a key of `formats.FORMATS`."""
    suffix: bool = False
    """Whether prompts of sequential records get the suffix of the autoregressive form."""

    def n_bytes(self) -> int:
        """Its size.

        Raises:
          UserError: it cannot be read.
        """
        with open_input(self.path) as file:
            return os.fstat(file.fileno()).st_size

    def spans(self, size: int) -> list[Span]:
        """The pieces of about `size` bytes or more that it can be read in.

        Raises:
          UserError: it cannot be read.
        """
        n_bytes = self.n_bytes()
        if self.kind == "array":
            return [Span(0, n_bytes, n_bytes)] if n_bytes else []
        if self.kind == "lines":
            starts = range(0, n_bytes, size)
            return [Span(start, min(start + size, n_bytes), min(size, n_bytes - start)) for start in starts]
        with _table(self.path) as table:
            count = table.num_row_groups if self.kind == "parquet" else table.num_record_batches
        pieces = max(1, min(count, n_bytes // size))
        bounds = [count * piece // pieces for piece in range(pieces + 1)]
        return [Span(*pair, n_bytes // pieces) for pair in itertools.pairwise(bounds) if pair[0] < pair[1]]

    def rows(self, span: Span | None = None) -> Iterator[bytes | Any]:
        """The rows of a piece, or all: lines as bytes, empty ones too; what is in a table or an array as it is there.

        Raises:
          UserError: the file cannot be read, or it is damaged.
        """
        if self.kind == "lines":
            return _lines(self.path, span)
        return _array(self.path) if self.kind == "array" else _table_rows(self.path, span)

    def records(self, span: Span | None = None) -> Iterator[Record | str | None]:
        """The record of each row of a piece; in place of a row that is none, the reason; None for an empty line."""
        for row in self.rows(span):
            if isinstance(row, bytes) and not row.strip():
                yield None
                continue
            try:
                fields = parse_line(row) if isinstance(row, bytes) else row
                record = to_record(fields, self.format, suffix=self.suffix)
            except ValueError as error:
                yield str(error)
            else:
                yield record


def kind_of(path: Path) -> str:
    """What a file holds: lines, array, parquet or arrow.

    Raises:
      UserError: it cannot be read.
    """
    kind = SUFFIXES.get(path.suffix.lower(), "lines")
    if kind == "array":  # JSON lines go by this suffix too
        with open_input(path) as file:
            start = file.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
        return "array" if start.startswith(b"[") else "lines"
    return kind


def _lines(path: Path, span: Span | None) -> Iterator[bytes]:
    """The lines that begin in a range of a file's bytes."""
    with open_input(path) as file:
        if span is None:
            yield from file
            return
        if span.start:
            # A line that begins exactly here is this piece's; the end of one that began before is not.
            file.seek(span.start - 1)
            file.readline()
        while file.tell() < span.end and (line := file.readline()):
            yield line


def _array(path: Path) -> Iterator[Any]:
    """The items of a JSON array, read a chunk at a time."""
    decoder, solid = json.JSONDecoder(), re.compile(r"[^\s,]")
    with open_input(path) as binary:
        try:
            with io.TextIOWrapper(binary, encoding="utf-8-sig") as file:
                text = file.read(CHUNK).lstrip()[1:]  # without the bracket
                place = number = 0
                while True:
                    found = solid.search(text, place)
                    place = found.start() if found else len(text)
                    if text.startswith("]", place):
                        return
                    try:
                        item, place = decoder.raw_decode(text, place)
                    except json.JSONDecodeError as error:  # the end of the chunk, or of what is JSON
                        more = file.read(max(CHUNK, len(text) - place))
                        if not more:
                            raise ValueError(f"not JSON ({error.msg} in item {number + 1} of the array)") from error
                        text, place = text[place:] + more, 0
                        continue
                    number += 1
                    yield item
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
            raise UserError(f"{path}: {error}; repair the file") from error


@contextlib.contextmanager
def _table(path: Path) -> Generator[Any]:
    """An open Parquet file or Arrow file, or the batches of an Arrow stream.

    Raises:
      UserError: pyarrow is missing, or the file is none of these or damaged.
    """
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise UserError(f"{path}: {NO_PYARROW}") from error
    try:
        if path.suffix.lower() == ".parquet":
            with parquet.ParquetFile(path) as file:
                yield file
            return
        with pyarrow.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                yield ipc.open_file(source)
            else:
                source.seek(0)
                yield _Stream(list(ipc.open_stream(source)))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch or save it again") from error


class _Stream:
    """The batches of an Arrow stream, with the names of an Arrow file's reader. They lie in the file, not in memory."""

    def __init__(self, batches: list[Any]):
        self._batches, self.num_record_batches = batches, len(batches)

    def get_batch(self, number: int) -> Any:
        return self._batches[number]


def _table_rows(path: Path, span: Span | None) -> Iterator[dict[str, Any]]:
    with _table(path) as table:
        if path.suffix.lower() == ".parquet":
            groups = range(table.num_row_groups) if span is None else range(span.start, span.end)
            batches = table.iter_batches(batch_size=ROWS, row_groups=list(groups))
        else:
            numbers = range(table.num_record_batches) if span is None else range(span.start, span.end)
            batches = (table.get_batch(number) for number in numbers)
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield from batch.slice(start, ROWS).to_pylist()
