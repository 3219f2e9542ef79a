"""Reading transcripts for a look at them: text, records, token lists; each examined as far as its faults allow."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvjax.errors import UserError
from mvjax.language import Layout, TranscriptError, lay_out, parse_text, parse_tokens, split_text
from mvjax.language.text import piece_facts
from mvjax.language.tree import Transcript

JSON_SUFFIXES = (".json", ".jsonl")
"""Files that can only hold records."""

MAX_LEVELS = 32
"""Nesting beyond this is reported as a fault."""

if TYPE_CHECKING:
    from mvjax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Source:
    """One transcript as it stands in a file."""

    name: str
    """The record's id or name, else its place in the file."""
    content: str | list[str] | list[int]
    """Text, or tokens as strings or ids."""
    prompt_length: int
    """Characters or tokens of the prompt."""


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
    """One transcript, examined."""

    name: str
    source: Source
    pieces: list[str]
    """The tokens as text."""
    prompt_tokens: int
    """How many of them are the prompt."""
    transcript: Transcript
    """The tree; where there are faults, the best that could be made."""
    layout: Layout | None
    """None where faults leave no sense in one."""
    faults: list[TranscriptError]
    """All faults, in order."""
    legal_for_engine: bool
    """Whether the faults are such as an engine's output may have."""

    def place(self, fault: TranscriptError) -> dict[str, Any]:
        """Where a fault is: token and its text, or character, line and column (from 1)."""
        if fault.unit == "token":
            return {"token": fault.index, "text": "".join(self.pieces[fault.index : fault.index + 1])}
        line = self.source.content.count("\n", 0, fault.index) + 1
        column = fault.index - self.source.content.rfind("\n", 0, fault.index)
        return {"character": fault.index, "line": line, "column": column}

    def describe(self, fault: TranscriptError) -> str:
        """A fault in one line."""
        place = self.place(fault)
        where = f"token {fault.index}" if fault.unit == "token" else f"line {place['line']}, column {place['column']}"
        return f"{where}: {fault.found}; expected {fault.expected}"


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


def examine(source: Source, tokenizer: Tokenizer | None, engine_output: bool, complete: bool) -> Document:
    """Parse and lay out one transcript, collecting all faults."""
    rules = {"engine_output": engine_output, "complete": complete}
    pieces, n_prompt, facts = _pieces(source, tokenizer)
    codes_T, colon_T, separator_T = facts
    given = {"separator_T": separator_T, "max_depth": MAX_LEVELS}

    def parse(**rules: bool) -> tuple[Transcript, list[TranscriptError]]:
        faults: list[TranscriptError] = []
        if isinstance(source.content, str):
            transcript = parse_text(source.content, source.prompt_length, faults=faults, max_depth=MAX_LEVELS, **rules)
        else:
            transcript = parse_tokens(pieces, codes_T, colon_T, n_prompt, faults=faults, **given, **rules)
        return transcript, faults

    transcript, faults = parse(**rules)
    layout = None
    try:
        layout = lay_out(codes_T, colon_T, n_prompt, **given, **rules)
    except TranscriptError as error:
        # Text that reads well may still be split badly: a tokenizer may put a separator and what follows in one token.
        if not faults:
            faults.append(error)
    legal_for_engine = bool(faults) and not engine_output and not parse(engine_output=True, complete=complete)[1]
    return Document(source.name, source, pieces, n_prompt, transcript, layout, faults, legal_for_engine)


def _pieces(source: Source, tokenizer: Tokenizer | None) -> tuple[list[str], int, tuple[np.ndarray, ...]]:
    """Tokens as text, how many are the prompt, and their codes, colons and separators."""
    content, n_prompt = source.content, source.prompt_length
    if isinstance(content, str) and tokenizer is None:
        pieces = split_text(content, n_prompt)
        return pieces, len(split_text(content[:n_prompt], n_prompt)), piece_facts(pieces)
    if isinstance(content, list) and not (content and isinstance(content[0], int)):
        return content, n_prompt, piece_facts(content)
    if tokenizer is None:
        raise UserError(f"{source.name}: holds token ids; name their tokenizer with --tokenizer")
    if isinstance(content, str):
        prompt = tokenizer.encode(content[:n_prompt])
        ids, n_prompt = [*prompt, *tokenizer.encode_response(content[n_prompt:])], len(prompt)
    else:
        ids = content
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            raise UserError(f"{source.name}: has token ids outside the tokenizer's 0 to {tokenizer.vocab_size - 1}")
    ids_T, tables = np.array(ids, np.int32), tokenizer.tables()
    facts = tables.codes[ids_T], tables.colon[ids_T], ids_T == tables.separator_id
    return [tokenizer.decode([token]) for token in ids], n_prompt, facts
