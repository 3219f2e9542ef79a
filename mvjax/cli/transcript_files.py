"""Reading transcripts from files: text, JSON records, token lists."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mvjax.data.formats import FormatName
from mvjax.display.document import Source
from mvjax.errors import UserError

JSON_SUFFIXES = (".json", ".jsonl")
"""Files that can only hold records."""


def read_sources(file: str, prompt_length: int = 0) -> list[Source]:
    """The transcripts of a file, "-" for standard input: one of text, or those of JSON records.

    Raises:
        UserError: not UTF-8, empty, broken JSON, or records without a transcript.
    """
    name = "standard input" if file == "-" else file
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}: line {line}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if not text.strip():
        raise UserError(f"{name}: is empty; give a transcript, a JSON record or JSON lines")
    only_json = Path(file).suffix in JSON_SUFFIXES
    records = None
    if only_json or text.lstrip().startswith(("{", "[")):
        try:
            records = _records(text)
        except (ValueError, RecursionError) as error:
            if only_json:  # other text may begin with a bracket too
                raise UserError(f"{name}: {error}; give a JSON record or JSON lines") from None
    if records is None:
        return [Source(name, text, _fitting(prompt_length, text, name))]
    return [_source(record, place, name, prompt_length) for place, record in records]


def read_data(name: str, format: FormatName) -> list[Source]:
    """The answers of training data: of each row that which training would learn.

    Args:
        name, format: as for `data.sources.open_data`.
    Raises:
        UserError: nothing that can be read is there, or a row is malformed; names the first such row.
    """
    from mvjax.data.records import Record
    from mvjax.data.sources import open_data

    found: list[Source] = []
    bad: list[str] = []
    for file in open_data([name], format):
        for number, record in enumerate(file.records(), 1):
            if isinstance(record, Record):
                found.append(Source(record.id, record.response, 0))
            elif record is not None:
                bad.append(f"{file.name}:{number}: {record}")
    if bad:
        more = f" (and {len(bad) - 1} more rows)" if bad[1:] else ""
        raise UserError(f"{bad[0]}{more}")
    if not found:
        raise UserError(f"{name}: holds no rows")
    return found


def _records(text: str) -> list[tuple[str, dict]]:
    """Places and JSON objects: one object, a list of them, or one a line. Raises ValueError where there is else."""
    try:
        whole = json.loads(text)
    except ValueError:
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(numbered) == 1:
            raise
        records = []
        for number, line in numbered:
            try:
                records.append((f"line {number}", json.loads(line)))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from None
    else:
        wholes = whole if isinstance(whole, list) else [whole]
        records = [(f"record {number}", record) for number, record in enumerate(wholes, 1)]
    for place, record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{place} is not a JSON object")
    return records


def _source(record: dict, place: str, file: str, prompt_length: int) -> Source:
    """The transcript of one record."""
    name = str(next((record[key] for key in ("id", "name") if key in record), f"{file}: {place}"))
    tokens, length = record.get("tokens"), record.get("prompt_length", prompt_length)
    if isinstance(tokens, list):
        content, kinds = tokens, {type(token) for token in tokens}
        if kinds not in (set(), {str}, {int}):
            raise UserError(f'{file}: {place}: "tokens" must be all strings or all ids')
    elif isinstance(record.get("response"), str):
        content = record["response"]
    else:
        raise UserError(f'{file}: {place}: has neither "response" (text) nor "tokens" (strings or ids)')
    return Source(name, content, _fitting(length, content, f"{file}: {place}"))


def _fitting(length: int, content: str | list, place: str) -> int:
    """The length of a prompt, if there can be one of that length."""
    if type(length) is int and 0 <= length <= len(content):
        return length
    unit = "characters" if isinstance(content, str) else "tokens"
    raise UserError(f"{place}: a prompt of {length!r} {unit} does not fit into {len(content)}")


def select(sources: list[Source], record: str | None, file: str) -> list[Source]:
    """The record with that name or number, or all."""
    if record is None:
        return sources
    chosen = [source for source in sources if source.name == record]
    if not chosen and record.isdecimal() and 1 <= int(record) <= len(sources):
        chosen = [sources[int(record) - 1]]
    if not chosen:
        raise UserError(f"{file}: has no record {record!r}; give an id, or a number from 1 to {len(sources)}")
    return chosen[:1]
