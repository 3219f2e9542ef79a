"""One transcript, examined: its tokens, tree and layout as far as its faults allow, and the faults."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from mvjax.errors import UserError
from mvjax.language import Layout, TranscriptError, lay_out, parse_text, parse_tokens, split_text
from mvjax.language.text import piece_facts
from mvjax.language.tree import Transcript

if TYPE_CHECKING:
    from mvjax.tokenizers import Tokenizer

MAX_LEVELS = 32
"""Nesting beyond this is reported as a fault."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One transcript as a file holds it."""

    name: str
    """The record's id or name, else the file and the record's number."""
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
    """None where the faults do not allow one."""
    faults: list[TranscriptError]
    """All faults, in order."""
    legal_for_engine: bool
    """Whether the same transcript would be accepted as an engine's output."""

    def locate(self, fault: TranscriptError) -> dict[str, Any]:
        """Where a fault is: token and its text, or character, line and column (from 1)."""
        if fault.unit == "token":
            return {"token": fault.index, "text": "".join(self.pieces[fault.index : fault.index + 1])}
        assert isinstance(self.source.content, str)  # its unit is a character
        line = self.source.content.count("\n", 0, fault.index) + 1
        column = fault.index - self.source.content.rfind("\n", 0, fault.index)
        return {"character": fault.index, "line": line, "column": column}

    def describe(self, fault: TranscriptError) -> str:
        """A fault in one line."""
        location = self.locate(fault)
        where = (
            f"token {fault.index}" if fault.unit == "token" else f"line {location['line']}, column {location['column']}"
        )
        return f"{where}: {fault.found}; expected {fault.expected}"


def examine(source: Source, tokenizer: Tokenizer | None, engine_output: bool, complete: bool) -> Document:
    """Parse and lay out one transcript, collecting all faults."""
    rules: dict[str, Any] = {"engine_output": engine_output, "complete": complete}
    pieces, n_prompt, facts = _pieces(source, tokenizer)
    codes_T, colon_T, separator_T = facts
    given = {"separator_T": separator_T, "max_depth": MAX_LEVELS}

    def parse(**rules: Any) -> tuple[Transcript, list[TranscriptError]]:
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
        pieces = [str(token) for token in content]
        return pieces, n_prompt, piece_facts(pieces)
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
